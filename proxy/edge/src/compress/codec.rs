//! The three codecs as one: slices in, bytes out into a buffer that never grows.

use std::io;

use brotli::enc::StandardAlloc;
use brotli::enc::encode::{
    BrotliEncoderCompressStream, BrotliEncoderCreateInstance, BrotliEncoderDestroyInstance,
    BrotliEncoderHasMoreOutput, BrotliEncoderIsFinished, BrotliEncoderOperation,
    BrotliEncoderParameter, BrotliEncoderSetParameter, BrotliEncoderStateStruct,
    BrotliEncoderTakeOutput,
};
use flate2::{Compress as Deflate, Compression, FlushCompress, Status};
use meridian_config::{Coding, Compress};
use zstd::stream::raw::{CParameter, Encoder as Zstd, InBuffer, Operation, OutBuffer};

/// What a step is to do beyond taking its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Nothing: give what has become ready.
    Take,
    /// Give all, so that the client can decode whatever was taken.
    Flush,
    /// The body ends.
    Finish,
}

/// The window of zstd, as a power of two: 128 KiB, so that its tables stay small. Clients must take 8 MiB (RFC 9659).
const ZSTD_WINDOW: u32 = 17;
/// That of brotli: 256 KiB. A smaller one chooses hash chains that take ten times the memory from level 5 on.
const BROTLI_WINDOW: u32 = 18;
/// That of gzip: 32 KiB, all there is.
const GZIP_WINDOW: u8 = 15;
/// Brotli gathers a whole meta-block, and from level 4 on the statistics of its parts. It is made to end one after so many
/// bytes, or it would hold several MiB.
const BROTLI_BLOCK: usize = 64 * 1024;

/// A body that is longer makes brotli choose tables of several times the memory.
const BROTLI_LONGEST: u32 = (1 << 20) - 1;

/// One body's codec.
pub(super) enum Codec {
    Gzip(Box<Deflate>),
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd<'static>>),
}

impl Codec {
    /// For a body of `length` bytes, where that is known: tables are no larger than it needs.
    ///
    /// # Errors
    /// If there is no memory, or the library does not take what the configuration says.
    pub(super) fn new(
        coding: Coding,
        settings: &Compress,
        length: Option<u64>,
    ) -> io::Result<Self> {
        let level = settings.levels.of(coding);
        Ok(match coding {
            Coding::Gzip => {
                let level = Compression::new(u32::from(level));
                Self::Gzip(Box::new(Deflate::new_gzip(level, GZIP_WINDOW)))
            }
            Coding::Brotli => Self::Brotli(Box::new(Brotli::new(level, length))),
            Coding::Zstd => {
                let mut zstd = Zstd::new(i32::from(level))?;
                zstd.set_parameter(CParameter::WindowLog(ZSTD_WINDOW))?;
                if level > 3 {
                    // Else they would be those of a window of MiB wherever the length is not known.
                    zstd.set_parameter(CParameter::HashLog(ZSTD_WINDOW))?;
                    zstd.set_parameter(CParameter::ChainLog(ZSTD_WINDOW))?;
                }
                zstd.set_pledged_src_size(length)?;
                Self::Zstd(Box::new(zstd))
            }
        })
    }

    /// Takes input off its front and appends to the room that `out` has. `true`: all is done that `op` asks for, else `out`
    /// is full and the same is to be asked again.
    ///
    /// # Errors
    /// If the library fails; the body cannot go on.
    pub(super) fn step(
        &mut self,
        input: &mut &[u8],
        op: Op,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        match self {
            Self::Gzip(deflate) => gzip(deflate, input, op, out),
            Self::Brotli(brotli) => brotli.step(input, op, out),
            Self::Zstd(zstd) => zstandard(zstd, input, op, out),
        }
    }
}

fn gzip(deflate: &mut Deflate, input: &mut &[u8], op: Op, out: &mut Vec<u8>) -> io::Result<bool> {
    let flush = match op {
        Op::Take => FlushCompress::None,
        Op::Flush => FlushCompress::Sync,
        Op::Finish => FlushCompress::Finish,
    };
    let before = deflate.total_in();
    let status = deflate.compress_vec(input, out, flush).map_err(io::Error::other)?;
    let used = usize::try_from(deflate.total_in() - before).unwrap_or(usize::MAX);
    *input = input.get(used..).unwrap_or_default();
    Ok(match op {
        Op::Take => input.is_empty(),
        Op::Flush => input.is_empty() && out.len() < out.capacity(),
        Op::Finish => status == Status::StreamEnd,
    })
}

fn zstandard(
    zstd: &mut Zstd<'static>,
    input: &mut &[u8],
    op: Op,
    out: &mut Vec<u8>,
) -> io::Result<bool> {
    let at = out.len();
    let mut output = OutBuffer::around_pos(out, at);
    if !input.is_empty() {
        let mut taken = InBuffer::around(input);
        zstd.run(&mut taken, &mut output)?;
        let used = taken.pos();
        *input = &input[used..];
    }
    if !input.is_empty() {
        return Ok(false);
    }
    Ok(match op {
        Op::Take => true,
        Op::Flush => zstd.flush(&mut output)? == 0,
        Op::Finish => zstd.finish(&mut output, true)? == 0,
    })
}

/// A brotli encoder, and what it has taken since the last meta-block ended.
pub(super) struct Brotli {
    state: BrotliEncoderStateStruct<StandardAlloc>,
    gathered: usize,
}

impl Brotli {
    fn new(level: u8, length: Option<u64>) -> Self {
        let mut state = BrotliEncoderCreateInstance(StandardAlloc::default());
        // These parameters exist, and take any number.
        let mut set = |parameter, value| BrotliEncoderSetParameter(&mut state, parameter, value);
        set(BrotliEncoderParameter::BROTLI_PARAM_QUALITY, u32::from(level));
        set(BrotliEncoderParameter::BROTLI_PARAM_LGWIN, BROTLI_WINDOW);
        if let Some(length) = length {
            let hint = u32::try_from(length).unwrap_or(u32::MAX).min(BROTLI_LONGEST);
            set(BrotliEncoderParameter::BROTLI_PARAM_SIZE_HINT, hint);
        }
        Self { state, gathered: 0 }
    }

    fn step(&mut self, input: &mut &[u8], op: Op, out: &mut Vec<u8>) -> io::Result<bool> {
        // What is left of the step before comes first: it takes no more while it has much to give.
        while self.give(out) {
            let ready = input.len().min(BROTLI_BLOCK - self.gathered);
            let is_all = ready == input.len();
            let ends_block = self.gathered + ready == BROTLI_BLOCK;
            let operation = match op {
                Op::Finish if is_all => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
                Op::Flush if is_all => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
                _ if ends_block => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
                _ => BrotliEncoderOperation::BROTLI_OPERATION_PROCESS,
            };
            let taken = self.run(operation, &input[..ready])?;
            *input = &input[taken..];
            self.gathered += taken;
            if taken < ready {
                continue;
            }
            if operation != BrotliEncoderOperation::BROTLI_OPERATION_PROCESS {
                self.gathered = 0;
            }
            if is_all {
                let given = self.give(out);
                let ended = op != Op::Finish || BrotliEncoderIsFinished(&self.state) != 0;
                return Ok(given && ended);
            }
        }
        Ok(false)
    }

    /// Takes what it can of the input, at least something; the output stays inside.
    fn run(&mut self, operation: BrotliEncoderOperation, input: &[u8]) -> io::Result<usize> {
        let (mut left, mut used) = (input.len(), 0);
        let (mut room, mut written) = (0, 0);
        let ran = BrotliEncoderCompressStream(
            &mut self.state,
            operation,
            &mut left,
            input,
            &mut used,
            &mut room,
            &mut [],
            &mut written,
            &mut None,
            &mut |_, _, _, _| (),
        );
        let is_stuck = used == 0 && !input.is_empty();
        if ran == 1 && !is_stuck { Ok(used) } else { Err(io::Error::other("brotli failed")) }
    }

    /// Moves its output to where there is room; whether that was all.
    fn give(&mut self, out: &mut Vec<u8>) -> bool {
        let mut size = out.capacity() - out.len();
        // Asked for nothing it would give everything.
        if size > 0 && BrotliEncoderHasMoreOutput(&self.state) != 0 {
            let ready = BrotliEncoderTakeOutput(&mut self.state, &mut size);
            out.extend_from_slice(&ready[..size]);
        }
        BrotliEncoderHasMoreOutput(&self.state) == 0
    }
}

impl Drop for Brotli {
    fn drop(&mut self) {
        BrotliEncoderDestroyInstance(&mut self.state);
    }
}
