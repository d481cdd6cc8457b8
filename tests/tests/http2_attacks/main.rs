//! Attacks on HTTP/2 by one client, in raw frames, and by many slow ones of HTTP/1.1, while a bystander is served by the
//! same worker.
//!
//! Of each: the bystander sees no error and waits at most a little longer; memory stays bounded; nothing is asked of the
//! endpoint beyond what was asked of the edge; and the attacker is rid of, or bounded in time.

mod floods;
mod headers;
mod resets;
mod scene;
mod slow;
mod stalls;
mod tls;
