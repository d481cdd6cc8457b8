//! A new binary takes over: listening sockets go from process to process, and none is ever closed.
//!
//! Promises: the old process serves on until the new one has served for a while; if that one cannot start, or dies soon,
//! the old one carries on as if nothing had been. Refuses to know: what is served.
//!
//! The new process is started by the old one with a pair of sockets as its standard input. Over that come the listening
//! sockets, one message each, then the last word; back come "ready", or why not.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use meridian_control::InheritedAdmin;
use meridian_edge::Inherited;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

/// Tells a process that its standard input is the other end.
const VARIABLE: &str = "MERIDIAN_HANDOVER";
/// The new process is ready within so long, or given up.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The new process has served for so long when the old one leaves.
const SETTLING: Duration = Duration::from_secs(3);
/// How often the old process looks.
const LOOK: Duration = Duration::from_millis(20);
/// The longest message, bytes.
const LONGEST: usize = 64 * 1024;

/// What the two processes say to each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// With a socket: one of a listener's.
    Listener(SocketAddr),
    /// With a socket: the admin endpoint's, and its address as it is configured.
    Admin(String),
    /// That is all.
    Whole,
    /// From the new process: it serves.
    Ready,
    /// From the new process: it ends.
    Failed(String),
    /// To the new process: everything is its own now.
    Yours,
}

/// The sockets that a process hands on.
#[derive(Default)]
pub(crate) struct Sockets {
    pub(crate) listeners: Vec<Inherited>,
    pub(crate) admin: Option<InheritedAdmin>,
}

/// What a new process is given.
pub(crate) struct Takeover {
    pub(crate) sockets: Sockets,
    pub(crate) old: OldProcess,
}

/// The way back to the process that this one takes over from.
#[derive(Debug)]
pub(crate) struct OldProcess(OwnedFd);

/// A new process that serves, and has yet to show that it keeps doing so.
#[derive(Debug)]
pub(crate) struct NewProcess {
    child: Child,
    line: OwnedFd,
    /// It goes on without this process.
    left: bool,
}

/// What this process is to take over, if another one has started it for that.
///
/// # Errors
/// When the other process does not say what it should.
pub(crate) fn takeover() -> anyhow::Result<Option<Takeover>> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let line = rustix::stdio::stdin().try_clone_to_owned()?;
    // A process that was handed a variable by mistake has another standard input.
    set_socket_timeout(&line, Timeout::Recv, Some(READY_WITHIN))
        .with_context(|| format!("{VARIABLE} is set, but standard input is no socket"))?;
    let nothing = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    let (mut listeners, mut admin) = (Vec::new(), None);
    loop {
        match receive(&line)?.context("the old process has gone")? {
            (Message::Listener(address), Some(socket)) => {
                listeners.push(Inherited { address, socket: socket.into() });
            }
            (Message::Admin(address), Some(socket)) => {
                admin = Some(InheritedAdmin { address, socket });
            }
            (Message::Whole, None) => break,
            (other, _) => bail!("the old process says {other:?}, which is not expected"),
        }
    }
    Ok(Some(Takeover { sockets: Sockets { listeners, admin }, old: OldProcess(line) }))
}

impl OldProcess {
    /// Tells it that this process serves.
    pub(crate) fn ready(&self) -> anyhow::Result<()> {
        send(&self.0, &Message::Ready, None)
    }

    /// Tells it that this process cannot.
    pub(crate) fn failed(&self, error: &anyhow::Error) {
        // It sees the end of this process as well.
        let _ = send(&self.0, &Message::Failed(format!("{error:#}")), None);
    }

    /// Waits until everything is this process's own; blocks.
    pub(crate) fn wait_for_all(&self) {
        let _ = set_socket_timeout(&self.0, Timeout::Recv, None);
        // The other end closes, or says so.
        let _ = receive(&self.0);
    }
}

impl NewProcess {
    /// Starts the program that this one was started as, as it is now on disk, with the same arguments, and waits until
    /// it serves on `sockets`.
    ///
    /// # Errors
    /// It cannot be started, says that it cannot serve, ends, or takes too long. It is gone then.
    pub(crate) async fn start(sockets: &Sockets) -> anyhow::Result<Self> {
        if std::process::id() == 1 {
            bail!(
                "this process is the first of its container, which would end with it: replace the container"
            );
        }
        let mut arguments = std::env::args_os();
        let program = arguments.next().context("this process does not know its program")?;
        let (line, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new(&program);
        command.args(arguments).env(VARIABLE, "1").stdin(Stdio::from(theirs));
        let name = program.display().to_string();
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        drop(command);
        let mut new = Self { child, line, left: false };
        new.until_ready(sockets).await?;
        Ok(new)
    }

    async fn until_ready(&mut self, sockets: &Sockets) -> anyhow::Result<()> {
        set_socket_timeout(&self.line, Timeout::Send, Some(LOOK))?;
        for Inherited { address, socket } in &sockets.listeners {
            self.give(&Message::Listener(*address), Some(socket.as_fd())).await?;
        }
        if let Some(InheritedAdmin { address, socket }) = &sockets.admin {
            self.give(&Message::Admin(address.clone()), Some(socket.as_fd())).await?;
        }
        self.give(&Message::Whole, None).await?;
        set_socket_timeout(&self.line, Timeout::Recv, Some(Duration::from_millis(1)))?;
        let late = Instant::now() + READY_WITHIN;
        loop {
            match receive(&self.line) {
                Ok(Some((Message::Ready, _))) => return Ok(()),
                Ok(Some((Message::Failed(why), _))) => bail!("the new process cannot start: {why}"),
                Ok(Some((other, _))) => {
                    bail!("the new process says {other:?}, which is not expected")
                }
                Ok(None) => bail!("the new process has ended: {}", self.how_ended().await),
                Err(error) if is_patience(&error) => {}
                Err(_) => bail!("the new process has ended: {}", self.how_ended().await),
            }
            if Instant::now() > late {
                bail!("the new process was not ready within {} s", READY_WITHIN.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The other end may be slow to take many sockets.
    async fn give(
        &mut self,
        message: &Message,
        socket: Option<BorrowedFd<'_>>,
    ) -> anyhow::Result<()> {
        let late = Instant::now() + READY_WITHIN;
        loop {
            match send(&self.line, message, socket) {
                Ok(()) => return Ok(()),
                Err(error) if is_patience(&error) && Instant::now() < late => {
                    tokio::time::sleep(LOOK).await;
                }
                Err(_) => bail!("the new process has ended: {}", self.how_ended().await),
            }
        }
    }

    /// Its id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has served for a while.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) async fn settle(&mut self) -> anyhow::Result<()> {
        let settled = Instant::now() + SETTLING;
        while Instant::now() < settled {
            if let Some(status) = self.child.try_wait()? {
                return Err(anyhow!("the new process has ended soon after it began: {status}"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Leaves it everything; its id.
    pub(crate) fn leave(mut self) -> u32 {
        // The end of this process says the same.
        let _ = send(&self.line, &Message::Yours, None);
        self.left = true;
        self.pid()
    }

    async fn how_ended(&mut self) -> String {
        let late = Instant::now() + Duration::from_secs(1);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) if Instant::now() < late => tokio::time::sleep(LOOK).await,
                _ => return "it closed its standard input".to_owned(),
            }
        }
    }
}

impl Drop for NewProcess {
    fn drop(&mut self) {
        if !self.left {
            // It may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn is_patience(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Errno>().is_some_and(|errno| matches!(*errno, Errno::AGAIN | Errno::INTR))
}

fn send(line: &OwnedFd, message: &Message, socket: Option<BorrowedFd<'_>>) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let sockets: Vec<BorrowedFd<'_>> = socket.into_iter().collect();
    if !sockets.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
    }
    sendmsg(line, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message; `None` at the end.
fn receive(line: &OwnedFd) -> anyhow::Result<Option<(Message, Option<OwnedFd>)>> {
    let mut bytes = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(line, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let sockets = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let socket = sockets.flatten().next();
    let message = serde_json::from_slice(&bytes[..received.bytes])
        .context("the other process speaks another language")?;
    Ok(Some((message, socket)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn messages_and_sockets_arrive_as_they_were_sent() {
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (ours, theirs) = pair.expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        send(&ours, &Message::Listener(address), Some(listener.as_fd())).expect("sent");
        send(&ours, &Message::Whole, None).expect("sent");
        drop((ours, listener));
        let (message, socket) = receive(&theirs).expect("received").expect("a message");
        assert!(matches!(message, Message::Listener(named) if named == address));
        let socket = TcpListener::from(socket.expect("a socket"));
        assert_eq!(socket.local_addr().ok(), Some(address));
        let (message, socket) = receive(&theirs).expect("received").expect("a message");
        assert!(matches!(message, Message::Whole) && socket.is_none());
        assert!(receive(&theirs).expect("received").is_none());
    }
}
