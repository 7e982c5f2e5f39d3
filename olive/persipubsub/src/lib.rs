//! A brokerless persistent publish/subscribe queue on LMDB.
