//! The settings that there are: names, defaults, meanings.

use super::sources::Spec;

pub(super) const SPECS: &[Spec] = &[
    Spec {
        name: "olive_amqp_url",
        default: "",
        meaning: "broker, as amqp://user:password@host:port/vhost; empty: start the embedded one",
    },
    Spec {
        name: "olive_amqp_exchange_name",
        default: "Olive.x",
        meaning: "direct exchange that jobs are published to",
    },
    Spec {
        name: "olive_amqp_queue_name",
        default: "Olive.q",
        meaning: "queue that jobs are taken from; <queue>.dead takes what cannot be run",
    },
    Spec {
        name: "olive_amqp_routing_key",
        default: "Olive.k",
        meaning: "key that binds the queue to the exchange",
    },
    Spec {
        name: "olive_amqp_queue_type",
        default: "classic",
        meaning: "classic or quorum",
    },
    Spec {
        name: "olive_amqp_qos",
        default: "80",
        meaning: "prefetch: most jobs held at once; 0 or less: no limit",
    },
    Spec {
        name: "olive_amqp_global_qos",
        default: "false",
        meaning: "accepted for old configurations, without effect",
    },
    Spec {
        name: "olive_worker_num_workers",
        default: "20",
        meaning: "jobs that run at once, whatever runs them",
    },
    Spec {
        name: "olive_worker_worker_type",
        default: "thread",
        meaning: "where Rust tasks without a timeout run: thread or process",
    },
    Spec {
        name: "olive_worker_pool_imp",
        default: "",
        meaning: "accepted for old configurations, without effect",
    },
    Spec {
        name: "olive_worker_drain_timeout",
        default: "25",
        meaning: "seconds that running jobs get to finish after SIGTERM or Ctrl-C",
    },
    Spec {
        name: "olive_python",
        default: "python3",
        meaning: "Python interpreter, such as venv/bin/python",
    },
    Spec {
        name: "olive_python_modules",
        default: "",
        meaning: "Python modules whose public functions are tasks, separated by commas",
    },
    Spec {
        name: "olive_python_path",
        default: "",
        meaning: "folders to find Python modules in, separated by colons; before the usual ones",
    },
    Spec {
        name: "olive_broker_listen",
        default: "127.0.0.1:5672",
        meaning: "address of the embedded broker",
    },
    Spec {
        name: "olive_broker_user",
        default: "guest",
        meaning: "user of the embedded broker",
    },
    Spec {
        name: "olive_broker_password",
        default: "guest",
        meaning: "password of the embedded broker",
    },
    Spec {
        name: "log_level",
        default: "info",
        meaning: "off, error, warn, info, debug or trace",
    },
];
