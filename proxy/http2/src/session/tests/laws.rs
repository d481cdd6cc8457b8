//! What holds whatever a client sends, and however it is served.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::*;
use super::peer::*;
use crate::frame::{HEAD, LARGEST, flag};

// ---------------------------------------------------------------------------- frames, likely and unlikely

fn id() -> impl Strategy<Value = u32> {
    prop_oneof![8 => (0..12_u32).prop_map(|n| 2 * n + 1), 1 => 0..30_u32, 1 => any::<u32>()]
}

fn block() -> impl Strategy<Value = Vec<u8>> {
    let length = (0..3_usize).prop_map(|n| post(&[("content-length", ["0", "7", "100"][n])]));
    let table = Just([&post(&[])[..], b"\x40\x01a\x01b\xbe"].concat());
    prop_oneof![
        4 => Just(post(&[])),
        2 => length,
        1 => table,
        1 => Just(post(&[("x-long", &"v".repeat(100))])),
        1 => Just(literals(&[("x-t", "1")])),
        1 => vec(any::<u8>(), 0..30),
    ]
}

fn header_frames() -> impl Strategy<Value = Vec<u8>> {
    (id(), any::<bool>(), block(), any::<Index>(), 0..8_u8).prop_map(|(id, end, block, at, cut)| {
        if cut > 0 {
            return head(id, end, &block);
        }
        let at = at.index(block.len() + 1);
        let first = frame(kind::HEADERS, u8::from(end), id, &block[..at]);
        [first, frame(kind::CONTINUATION, flag::END_HEADERS, id, &block[at..])].concat()
    })
}

fn body_frame() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![4 => 0..200_usize, 1 => Just(LARGEST - 256)];
    (id(), any::<bool>(), len, proptest::option::of(any::<u8>())).prop_map(|(id, end, len, pad)| {
        let payload = vec![7; len];
        pad.map_or_else(|| data(id, end, &payload), |pad| padded(id, end, &payload, pad))
    })
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let step = prop_oneof![Just(0), 1..1000_u32, any::<u32>()];
    let change = prop_oneof![Just(0), 1..100_000_u32, Just(frame::MOST)];
    prop_oneof![
        8 => header_frames(),
        8 => body_frame(),
        3 => (id(), step).prop_map(|(id, more)| window(id, more)),
        2 => id().prop_map(reset),
        1 => change.prop_map(|first| settings_frame(&[(setting::INITIAL_WINDOW_SIZE, first)])),
        1 => any::<[u8; 8]>().prop_map(|payload| ping(&payload)),
        1 => (0..12_u8, any::<u8>(), id(), vec(any::<u8>(), 0..40))
            .prop_map(|(kind, flags, id, payload)| frame(kind, flags, id, &payload)),
    ]
}

fn conversation() -> impl Strategy<Value = Vec<Vec<u8>>> {
    // Several requests in the right order first, so that not everything is about streams that do not exist.
    let begin =
        (0..6_u32).prop_map(|count| (0..count).map(|n| request(2 * n + 1, n == 0)).collect());
    (begin, vec(any_frame(), 0..40)).prop_map(|(begin, rest): (Vec<_>, _)| [begin, rest].concat())
}

// ---------------------------------------------------------------------------- the same in pieces

/// Everything that can be seen of a session that was told `pieces`.
fn seen(pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>, Option<ConnectionError>, Vec<String>) {
    let mut peer = Peer::silent(LIMITS);
    let mut error = None;
    for piece in pieces {
        if error.is_none() {
            error = peer.tell(piece).err();
        }
    }
    let output = peer.session.output().to_vec();
    let opened = std::mem::take(&mut peer.opened);
    let bodies = opened.iter().map(|opened| format!("{:?}", peer.read(opened.stream))).collect();
    (opened.iter().map(|opened| format!("{opened:?}")).collect(), output, error, bodies)
}

proptest! {
    #[test]
    fn how_the_bytes_come_does_not_matter(
        frames in conversation(),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let bytes = [greeting(&[]), frames.concat()].concat();
        let whole = seen(&[&bytes]);
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(&seen(&single), &whole);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(&seen(&pieces), &whole);
    }
}

// ---------------------------------------------------------------------------- bounds

/// What one side of the connection does next.
#[derive(Clone, Debug)]
enum Act {
    Say(Vec<u8>),
    /// Only so much of it arrives for now.
    SayHalf(Vec<u8>, Index),
    Read(Index),
    Answer(Index),
    Send(Index, usize),
    End(Index),
    Reset(Index),
    Close(Index),
    Sent(Index),
    Forgive,
    Rest,
    Leave,
}

fn act() -> impl Strategy<Value = Act> {
    let which = any::<Index>;
    prop_oneof![
        30 => any_frame().prop_map(Act::Say),
        5 => (any_frame(), which()).prop_map(|(frame, at)| Act::SayHalf(frame, at)),
        8 => which().prop_map(Act::Read),
        5 => which().prop_map(Act::Answer),
        8 => (which(), 1..50_000_usize).prop_map(|(at, len)| Act::Send(at, len)),
        3 => which().prop_map(Act::End),
        2 => which().prop_map(Act::Reset),
        4 => which().prop_map(Act::Close),
        8 => which().prop_map(Act::Sent),
        1 => Just(Act::Forgive),
        1 => Just(Act::Rest),
        1 => Just(Act::Leave),
    ]
}

/// A session, the streams that are being served, and what the client has left to say of a frame.
struct Served {
    peer: Peer,
    streams: Vec<(StreamKey, Head)>,
    later: Vec<u8>,
    failed: bool,
}

impl Served {
    fn new() -> Self {
        let (streams, later) = (Vec::new(), Vec::new());
        Self { peer: Peer::new(), streams, later, failed: false }
    }

    fn say(&mut self, bytes: &[u8]) {
        if !self.peer.session.wants_input() || self.failed {
            return;
        }
        let before = self.peer.session.output().len();
        self.failed = self.peer.tell(bytes).is_err();
        let opened = std::mem::take(&mut self.peer.opened);
        self.streams.extend(opened.into_iter().map(|opened| (opened.stream, opened.head)));
        let grown = self.peer.session.output().len() - before;
        // A reset for a frame of nine bytes is the most, but for the goodbye.
        assert!(grown <= 2 * (bytes.len() + LARGEST) + 100, "{grown} bytes for {}", bytes.len());
    }

    fn key(&self, at: Index) -> Option<StreamKey> {
        (!self.streams.is_empty()).then(|| self.streams[at.index(self.streams.len())].0)
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Say(bytes) => {
                let bytes = [std::mem::take(&mut self.later), bytes].concat();
                self.say(&bytes);
            }
            Act::SayHalf(bytes, at) => {
                let bytes = [std::mem::take(&mut self.later), bytes].concat();
                let (now, later) = bytes.split_at(at.index(bytes.len()));
                self.later = later.to_vec();
                self.say(now);
            }
            Act::Sent(at) => {
                let waiting = self.peer.session.output().len();
                self.peer.session.sent(at.index(waiting + 1));
            }
            Act::Forgive => self.peer.session.forgive(),
            Act::Rest => self.peer.session.rest(),
            Act::Leave => self.peer.session.leave(),
            Act::Close(at) if !self.streams.is_empty() => {
                let (key, head) = self.streams.swap_remove(at.index(self.streams.len()));
                self.peer.session.close(key, head);
            }
            Act::Read(at) | Act::Answer(at) | Act::Send(at, _) | Act::End(at) | Act::Reset(at) => {
                if let Some(key) = self.key(at) {
                    self.serve(key, &act);
                }
            }
            Act::Close(_) => {}
        }
    }

    fn serve(&mut self, key: StreamKey, act: &Act) {
        match act {
            Act::Read(_) => drop(self.peer.read(key)),
            Act::Answer(_) => self.peer.begin(key),
            Act::Send(_, len) => drop(self.peer.send_all(key, &vec![7; *len])),
            Act::End(_) => self.peer.session.end(key),
            _ => self.peer.session.reset(key, Reason::CANCEL),
        }
    }

    /// What the session holds is bounded, and no window has leaked.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let session = &mut self.peer.session;
        prop_assert_eq!(session.active(), self.streams.len());
        let gone = self.streams.iter().filter(|(key, _)| session.is_gone(*key)).count();
        prop_assert!(session.active() <= 2 * LIMITS.streams as usize);
        prop_assert!(session.active() - gone <= LIMITS.streams as usize);
        let mut unread = 0;
        for (key, _) in &self.streams {
            let stream = session.streams.get(*key);
            let held = stream.inbox.len() as u32;
            unread += held;
            let ahead = session.reading.ahead(*key);
            let stream = session.streams.get(*key);
            let whole = held + stream.read + stream.receive_window;
            if !stream.remote_ended && !stream.is_gone() {
                prop_assert_eq!(whole + ahead, STREAM_WINDOW);
            }
            prop_assert!(whole <= STREAM_WINDOW);
            prop_assert!(stream.is_gone() || stream.send_window <= i64::from(frame::MOST));
        }
        prop_assert!(session.send_window <= i64::from(frame::MOST) && session.send_window >= 0);
        if !self.failed {
            let ahead = session.reading.all_ahead();
            prop_assert_eq!(
                session.receive_window + session.read + unread + ahead,
                CONNECTION_WINDOW
            );
        }
        let block = session.block.as_ref().map_or(0, |block| block.len());
        prop_assert!(block <= 2 * LARGEST.max(LIMITS.header_bytes));
        prop_assert!(session.spare.len() <= SPARE_HEADS);
        // Room, answers to what was said while there was some, and heads of streams.
        prop_assert!(session.output().len() <= 4 * 64 * 1024, "{}", session.output().len());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_is_bounded_and_no_window_leaks(
        begin in conversation(),
        acts in vec(act(), 0..120),
    ) {
        let mut served = Served::new();
        served.say(&begin.concat());
        served.check()?;
        for act in acts {
            served.act(act);
            served.check()?;
        }
        // In the end all streams are closed, and everything the client was allowed at first is there again.
        while !served.streams.is_empty() {
            let (key, head) = served.streams.remove(0);
            served.peer.session.close(key, head);
        }
        let waiting = served.peer.session.output().len();
        served.peer.session.sent(waiting);
        served.check()?;
    }
}

// ---------------------------------------------------------------------------- nothing stands still

/// Answers of these lengths to a client that takes what it gets in its own time.
struct Answers {
    peer: Peer,
    /// Stream, what is left to send, and whether its task is to be polled.
    tasks: Vec<(StreamKey, usize, Arc<Flag>)>,
    /// What the client has allowed and not received: of all streams, then by task.
    windows: Vec<i64>,
    done: usize,
}

impl Answers {
    fn new(lengths: &[usize], first: u32) -> Self {
        let mut peer = Peer::greeted(Limits { streams: 100, header_bytes: 4096 });
        peer.say(&settings_frame(&[(setting::INITIAL_WINDOW_SIZE, first)]));
        let mut tasks = Vec::new();
        for (n, length) in lengths.iter().enumerate() {
            let key = peer.request(2 * n as u32 + 1, true);
            peer.begin(key);
            let woken = Arc::new(Flag::default());
            std::task::Wake::wake(woken.clone());
            tasks.push((key, *length, woken));
        }
        let mut windows = vec![i64::from(first); lengths.len() + 1];
        windows[0] = i64::from(FIRST_WINDOW);
        Self { peer, tasks, windows, done: 0 }
    }

    /// Polls the tasks that were woken, as a runtime does, until none is.
    fn run(&mut self) {
        while let Some(at) = self.tasks.iter().position(|(_, _, woken)| woken.take()) {
            let (key, left, woken) = &mut self.tasks[at];
            let waker = woken.clone().into();
            let mut gone = false;
            while *left > 0 && !gone {
                let data = &[7; 100_000][..(*left).min(100_000)];
                match self.peer.session.poll_send(*key, data, &Context::from_waker(&waker)) {
                    Poll::Ready(Ok(count)) => *left -= count,
                    Poll::Ready(Err(Gone)) => gone = true,
                    Poll::Pending => break,
                }
            }
            if gone || *left == 0 {
                let (key, ..) = self.tasks.swap_remove(at);
                self.peer.session.end(key);
                self.peer.close(key);
                self.done += 1;
            }
        }
    }

    /// The client takes so many frames' worth of bytes, and gives back what it has received, `late` streams apart.
    fn take(&mut self, count: usize, late: bool) -> Result<(), TestCaseError> {
        let waiting = self.peer.session.output();
        // Whole frames, so that they can be read.
        let (mut end, mut taken) = (0, 0);
        while end < waiting.len() && taken < count {
            let head = frame::FrameHead::parse(&waiting[end..]).expect("a frame");
            end += HEAD + head.len;
            taken += 1;
        }
        let bytes = waiting[..end].to_vec();
        self.peer.session.sent(end);
        for frame in frames(&bytes) {
            if frame.kind != kind::DATA {
                continue;
            }
            let (len, at) = (frame.payload.len() as i64, frame.stream.div_ceil(2) as usize);
            self.windows[0] -= len;
            self.windows[at] -= len;
            prop_assert!(self.windows[0] >= 0, "beyond the window of the connection");
            if len > 0 && !late {
                self.peer.say(&[window(0, len as u32), window(frame.stream, len as u32)].concat());
                self.windows[0] += len;
                self.windows[at] += len;
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn answers_go_on_as_long_as_the_client_takes_them(
        lengths in vec(prop_oneof![0..100_usize, 0..200_000_usize], 1..12),
        first in prop_oneof![Just(1_u32), 100..100_000_u32, Just(1 << 20)],
        steps in vec((0..5_usize, any::<Index>(), 0..10_u8), 0..60),
    ) {
        let mut answers = Answers::new(&lengths, first);
        answers.run();
        let mut change = 0_i64;
        for (frames, which, what) in steps {
            match what {
                0 if !answers.tasks.is_empty() => {
                    let (key, ..) = answers.tasks[which.index(answers.tasks.len())];
                    answers.peer.say(&reset(key.id));
                }
                1 => {
                    // Windows shrink, and grow again later.
                    let to = which.index(first as usize + 1) as i64;
                    answers.peer.say(&settings_frame(&[(setting::INITIAL_WINDOW_SIZE, to as u32)]));
                    let by = to - i64::from(first) - change;
                    change += by;
                    answers.windows.iter_mut().skip(1).for_each(|window| *window += by);
                }
                _ => answers.take(frames, false)?,
            }
            answers.run();
        }
        answers.peer.say(&settings_frame(&[(setting::INITIAL_WINDOW_SIZE, first.max(1000))]));
        answers.run();
        // From here on the client takes everything, and nothing may stand still before all is said.
        let mut rounds = 0;
        while !answers.tasks.is_empty() {
            prop_assert!(!answers.peer.session.output().is_empty(), "{} answers stand still", answers.tasks.len());
            answers.take(1000, false)?;
            answers.peer.session.forgive();
            answers.run();
            rounds += 1;
            prop_assert!(rounds < 100_000);
        }
        prop_assert_eq!(answers.done, lengths.len());
    }
}
