//! Relays a response through a codec.
//!
//! Promises: what has come is with the client before the edge waits for more; a slow client holds up the endpoint, not this
//! edge's memory; one slice of input is compressed at a time, and others have their turn in between; an answer that
//! breaks off never ends well.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use meridian_config::{Coding, Compress};
use meridian_routing::{CompressionCounters, Decision};

use super::Downstream;
use super::journey::Journey;
use super::pace::Pace;
use super::relay::{Cut, give, more, taken};
use super::sent_body::SentBody;
use super::upstream::Upstream;
use crate::buffers::Lease;
use crate::compress::{Encoder, Op, Recoded, plan, without_digests};
use crate::http1::body::{Decoder, Framing, Part, with_trailers};
use crate::http1::response::{ResponseFacts, ResponseHead};

/// So much is compressed before others have their turn, bytes: a millisecond or so at usual levels.
const SLICE: usize = 16 * 1024;

/// What becomes of an answer on a route that compresses, and what its body is to go through.
pub(super) fn recode<D: Downstream>(
    journey: &Journey<'_>,
    decision: &Decision,
    settings: &Compress,
    head: &ResponseHead<'_, '_>,
    down: &D,
) -> Option<(Recoded, Option<Box<Encoder>>)> {
    let planned = down.request(|request| plan(settings, head, journey.is_head, request))?;
    let Some(coding) = planned.coding.filter(|_| !journey.is_head) else {
        return Some((planned, None));
    };
    let memory = &journey.worker.compressors;
    let most = journey.table.config.edge.compress_memory;
    match Encoder::new(memory, most, coding, settings, head.facts.announced) {
        Some(encoder) => Some((planned, Some(Box::new(encoder)))),
        None => {
            journey.table.counters(decision.route).compression.skip();
            Some((Recoded { coding: None, weakens: false }, None))
        }
    }
}

/// The head of an answer whose length is not known any more.
pub(super) fn unmeasured<'h, 'b>(head: &ResponseHead<'h, 'b>) -> ResponseHead<'h, 'b> {
    let framing = match head.facts.framing {
        Framing::Empty => Framing::Empty,
        Framing::Length(_) | Framing::Chunked | Framing::UntilClose => Framing::Chunked,
    };
    ResponseHead { facts: ResponseFacts { framing, announced: None, ..head.facts }, ..*head }
}

/// Bytes before and after, counted however the answer ends.
struct Tally<'a> {
    counters: &'a CompressionCounters,
    coding: Coding,
    bytes_in: u64,
    bytes_out: u64,
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.counters.compressed(self.coding, self.bytes_in, self.bytes_out);
    }
}

/// A body on its way through its codec.
struct Press<'j, 'd, D> {
    journey: &'j Journey<'j>,
    down: &'d mut D,
    /// `None` when it has given all: what it holds is not kept while the client takes the rest.
    encoder: Option<Box<Encoder>>,
    out: Lease,
    idle: Duration,
    pace: Pace,
    /// Since others have had their turn, bytes.
    run: usize,
    /// The codec holds something that the client does not have.
    holds: bool,
    tally: Tally<'j>,
}

/// Passes the response on, which was begun. Returns the bytes that the client was given, and those of the endpoint.
pub(super) async fn compressed<D: Downstream>(
    journey: &Journey<'_>,
    decision: &Decision,
    (upstream, facts): (&mut Upstream, ResponseFacts),
    encoder: Box<Encoder>,
    down: &mut D,
    body: &mut SentBody,
) -> Result<(u64, Option<(Coding, u64)>), Cut> {
    let idle = journey.table.service(decision.service).settings.timeouts.idle;
    let counters = &journey.table.counters(decision.route).compression;
    let coding = encoder.coding();
    let mut press = Press {
        journey,
        down,
        encoder: Some(encoder),
        out: Lease::new(&journey.worker.buffers),
        idle,
        pace: Pace::new(journey.table.config.limits.min_rate, idle),
        run: 0,
        holds: false,
        tally: Tally { counters, coding, bytes_in: 0, bytes_out: 0 },
    };
    let mut decoder = Decoder::new(facts.framing);
    loop {
        let used = {
            let step = decoder.step(upstream.unread()).map_err(|_| Cut::Endpoint)?;
            match step.part {
                Part::Data(data) => press.take(data).await?,
                Part::End(trailers) => {
                    with_trailers(trailers, |_| ()).map_err(|_| Cut::Endpoint)?;
                    press.finish(trailers).await?;
                    let used = step.used;
                    upstream.consume(used);
                    return Ok(press.total());
                }
                Part::Nothing => {}
            }
            step.used
        };
        upstream.consume(used);
        if used > 0 && (decoder.done() || !upstream.unread().is_empty()) {
            continue;
        }
        if !press.more(upstream, body).await? {
            if !decoder.ends_with_connection() {
                press.flush().await?;
                return Err(Cut::Endpoint);
            }
            press.finish(&[]).await?;
            return Ok(press.total());
        }
    }
}

impl<D: Downstream> Press<'_, '_, D> {
    /// Takes body bytes, slice by slice.
    async fn take(&mut self, data: &[u8]) -> Result<(), Cut> {
        for slice in data.chunks(SLICE) {
            if self.run >= SLICE {
                self.run = 0;
                tokio::task::yield_now().await;
            }
            self.run += slice.len();
            self.tally.bytes_in += slice.len() as u64;
            self.holds = true;
            self.drive(slice, Op::Take).await?;
        }
        Ok(())
    }

    /// Lets the codec do it, and passes on what comes out whenever the buffer is full.
    async fn drive(&mut self, mut input: &[u8], op: Op) -> Result<(), Cut> {
        loop {
            let Some(encoder) = &mut self.encoder else { return Ok(()) };
            self.out.hold();
            let done = encoder.step(&mut input, op, &mut self.out).map_err(|_| Cut::Edge)?;
            if done {
                return Ok(());
            }
            self.pass_on().await?;
        }
    }

    /// Gives the client what has come out.
    async fn pass_on(&mut self) -> Result<(), Cut> {
        let Self { journey, down, out, idle, pace, tally, .. } = self;
        let bytes = out.len() as u64;
        if bytes > 0 {
            tally.bytes_out += bytes;
            let given = give(journey, *idle, pace, down.body(out)).await;
            taken(journey, pace, bytes, given)?;
            out.clear();
        }
        out.let_go();
        Ok(())
    }

    /// Waits for more of the response; what has come of it is with the client before that. `false` at the connection's end.
    async fn more(&mut self, upstream: &mut Upstream, body: &mut SentBody) -> Result<bool, Cut> {
        let (journey, idle) = (self.journey, self.idle);
        // What is there already needs no flush, which costs a few bytes and the codec's memory of what is likely.
        let ready = {
            let mut waiting = pin!(more(journey, idle, upstream, self.down, body));
            poll_fn(|cx| {
                Poll::Ready(match waiting.as_mut().poll(cx) {
                    Poll::Ready(result) => Some(result),
                    Poll::Pending => None,
                })
            })
            .await
        };
        match ready {
            None => self.flush().await?,
            Some(Err(Cut::Endpoint)) => {
                self.flush().await?;
                return Err(Cut::Endpoint);
            }
            Some(result) => return result,
        }
        more(journey, idle, upstream, self.down, body).await
    }

    /// Gives the client all that has come.
    async fn flush(&mut self) -> Result<(), Cut> {
        if std::mem::take(&mut self.holds) {
            self.drive(&[], Op::Flush).await?;
        }
        self.pass_on().await?;
        let given = give(self.journey, self.idle, &mut self.pace, self.down.flush()).await;
        taken(self.journey, &mut self.pace, 0, given)
    }

    /// The body ends, with this trailer section.
    async fn finish(&mut self, trailers: &[u8]) -> Result<(), Cut> {
        self.drive(&[], Op::Finish).await?;
        self.encoder = None;
        self.pass_on().await?;
        let trailers = without_digests(trailers);
        let given =
            give(self.journey, self.idle, &mut self.pace, self.down.finish(&trailers)).await;
        taken(self.journey, &mut self.pace, 0, given)
    }

    fn total(&self) -> (u64, Option<(Coding, u64)>) {
        let Tally { coding, bytes_in, bytes_out, .. } = self.tally;
        (bytes_out, Some((coding, bytes_in)))
    }
}
