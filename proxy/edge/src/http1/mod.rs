//! HTTP/1.1 as bytes: strict parsing of heads and framings, and a client's side of one request.

pub(crate) mod body;
pub(crate) mod bytes;
pub(crate) mod downstream;
pub(crate) mod head;
pub(crate) mod response;
