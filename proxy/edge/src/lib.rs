//! The data plane: accept, identify, decide, forward, observe.
//!
//! Promises: every request on a listener is parsed strictly, decided once by `meridian_routing::decide`, forwarded in
//! one of two lanes, and observed. Refuses to know: how the table is made, where health comes from.

mod access_log;
mod acme;
mod admit;
mod affinity;
mod alarm;
mod buffers;
mod client_certificate;
mod compress;
mod connection;
mod crowd;
mod descriptors;
mod edge;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod http1;
mod http2;
mod http2_line;
mod http2_stream;
mod identify;
mod listener;
mod log_clock;
mod log_line;
mod memory;
mod observe;
mod proxy_protocol;
mod redirect;
mod request;
mod respond;
mod session;
mod socket;
mod tally;
mod tls;
mod transport;
mod upgrade;
mod worker;

pub use edge::{Edge, EdgeError, Inherited, Workers};
