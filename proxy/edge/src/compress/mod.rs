//! Compression of answers: what a client takes, which answers are compressed, and how.
//!
//! Promises: what is compressed says so in every field that has to (RFC 9110); what must not be transformed is not
//! touched. A codec takes bounded slices, gives into a buffer that never grows, and holds no more than it reserved.
//! Refuses to know: where bodies come from and where they go; `forward/compressed.rs` moves them.

mod accept;
mod codec;
mod encoder;
mod fields;
mod plan;

pub(crate) use encoder::{Encoder, Memory, Op};
pub(crate) use fields::{recoded, without_digests};
pub(crate) use plan::{Recoded, plan};
