//! The gateway: all I/O of Countersign.
