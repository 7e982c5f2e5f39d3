/* rabbitmq-c (Debian's librabbitmq) as one more client of tests/bench amqp:
 *   rabbitmq_c SCENARIO SIZE COUNT HOST PORT QUEUE
 * prints CPU us a message, messages a second, peak RSS in MiB, as the clients in Rust do. */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { BATCH = 40, WINDOW = 1000 };

static amqp_connection_state_t conn;
static amqp_bytes_t queue;

static void check(int good, const char *what) {
  if (!good) {
    fprintf(stderr, "rabbitmq_c: %s failed\n", what);
    exit(1);
  }
}

static double cpu(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double wall(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void barrier(void) {
  check(amqp_queue_declare(conn, 1, queue, 1, 0, 0, 0, amqp_empty_table) != NULL, "the barrier");
}

static void send_one(amqp_bytes_t body) {
  int status = amqp_basic_publish(conn, 1, amqp_empty_bytes, queue, 0, 0, NULL, body);
  check(status == AMQP_STATUS_OK, "a publish");
}

static void publish(long count, amqp_bytes_t body, int confirms) {
  uint64_t confirmed = 0;
  for (long number = 1; number <= count; number++) {
    send_one(body);
    while (confirms && (number - (long)confirmed >= WINDOW || (number == count && (long)confirmed < count))) {
      amqp_frame_t frame;
      amqp_maybe_release_buffers(conn);
      check(amqp_simple_wait_frame(conn, &frame) == AMQP_STATUS_OK, "waiting for a confirm");
      check(frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD, "a confirm");
      uint64_t tag = ((amqp_basic_ack_t *)frame.payload.method.decoded)->delivery_tag;
      if (tag > confirmed) confirmed = tag;
    }
  }
  barrier();
}

static void consume(long count, size_t size, int batch) {
  check(amqp_basic_consume(conn, 1, queue, amqp_cstring_bytes("c"), 0, 0, 0, amqp_empty_table) != NULL, "consume");
  for (long number = 1; number <= count; number++) {
    amqp_envelope_t envelope;
    amqp_maybe_release_buffers(conn);
    check(amqp_consume_message(conn, &envelope, NULL, 0).reply_type == AMQP_RESPONSE_NORMAL, "a delivery");
    check(envelope.message.body.len == size, "the body's length");
    if (!batch || number % BATCH == 0 || number == count)
      check(amqp_basic_ack(conn, 1, envelope.delivery_tag, batch) == 0, "an ack");
    amqp_destroy_envelope(&envelope);
  }
  barrier();
}

int main(int argc, char **argv) {
  check(argc == 7, "usage: six arguments:");
  const char *scenario = argv[1];
  size_t size = (size_t)atol(argv[2]);
  long count = atol(argv[3]);
  queue = amqp_cstring_bytes(argv[6]);
  conn = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(conn);
  check(amqp_socket_open(socket, argv[4], atoi(argv[5])) == AMQP_STATUS_OK, "connect");
  amqp_rpc_reply_t login = amqp_login(conn, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
  check(login.reply_type == AMQP_RESPONSE_NORMAL, "login");
  check(amqp_channel_open(conn, 1) != NULL, "channel.open");
  amqp_bytes_t body = amqp_bytes_malloc(size);
  memset(body.bytes, 'x', size);
  int confirms = strcmp(scenario, "confirm") == 0;
  if (confirms) check(amqp_confirm_select(conn, 1) != NULL, "confirm.select");
  int prefetch = strcmp(scenario, "consume-1000") == 0 ? 1000 : 80;
  check(amqp_basic_qos(conn, 1, 0, prefetch, 0) != NULL, "qos");
  double cpu_before = cpu(), wall_before = wall();
  if (confirms || strcmp(scenario, "publish") == 0)
    publish(count, body, confirms);
  else
    consume(count, size, strcmp(scenario, "consume-batch") == 0);
  double cpu_used = cpu() - cpu_before, wall_used = wall() - wall_before;
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  printf("%g %g %g\n", cpu_used / count * 1e6, count / wall_used, u.ru_maxrss / 1024.0);
  amqp_connection_close(conn, AMQP_REPLY_SUCCESS);
  return 0;
}
