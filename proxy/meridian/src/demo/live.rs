//! The demo to watch: a live table with keys on a terminal, a line a second elsewhere.
//!
//! Promises: shows what the edge does, and does what the keys say. Refuses to know: how the edge and the
//! regions are made.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::display::{Happening, happening_line, summary_line};
use super::keys::{Key, Keyboard};
use super::region::Role;
use super::stage::Stage;
use crate::admin_client::AdminClient;
use crate::commands::{Verdict, describe, follow_events};
use crate::views::EventView;

const EVERY: Duration = Duration::from_secs(1);
/// What happened last, as far as it is kept.
const KEPT: usize = 32;
/// Events that were not shown yet; more are lost.
const QUEUE: usize = 256;

/// Until the user quits.
///
/// # Errors
/// When the edge fails, or the terminal.
pub(super) async fn watch(stage: &mut Stage, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let mut events = Events::follow(stage.admin.clone());
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        Table::new(stage, out)?.run(&mut events).await
    } else {
        lines(stage, &mut events, out).await
    }
}

async fn lines(
    stage: &mut Stage,
    events: &mut Events,
    out: &mut dyn Write,
) -> anyhow::Result<Verdict> {
    out.write_all(stage.frame.plain_head().as_bytes())?;
    let mut ticks = ticks();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                stage.look().await?;
                writeln!(out, "{}", summary_line(&stage.scene()?, stage.started.elapsed()))?;
            }
            what = events.next() => {
                let after = stage.started.elapsed();
                writeln!(out, "{}", happening_line(&Happening { after, what }))?;
            }
            error = stage.edge_failed() => return Err(error),
        }
        out.flush()?;
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The table on a terminal.
struct Table<'a> {
    stage: &'a mut Stage,
    out: &'a mut dyn Write,
    keyboard: Keyboard,
    happenings: Vec<Happening>,
    selected: usize,
}

impl<'a> Table<'a> {
    fn new(stage: &'a mut Stage, out: &'a mut dyn Write) -> anyhow::Result<Self> {
        let (keyboard, happenings) = (Keyboard::start()?, Vec::new());
        Ok(Self { stage, out, keyboard, happenings, selected: 2 })
    }

    async fn run(mut self, events: &mut Events) -> anyhow::Result<Verdict> {
        let mut ticks = ticks();
        loop {
            tokio::select! {
                _ = ticks.tick() => self.stage.look().await?,
                what = events.next() => self.note(what),
                key = self.keyboard.keys.recv() => match key {
                    None | Some(Key::Quit) => return Ok(Verdict::Fine),
                    Some(key) => self.obey(key).await,
                },
                error = self.stage.edge_failed() => return Err(error),
            }
            let size = crossterm::terminal::size().unwrap_or((80, 24));
            let scene = self.stage.scene()?;
            let picture = self.stage.frame.picture(&scene, &self.happenings, self.selected, size);
            self.out.write_all(picture.as_bytes())?;
            self.out.flush()?;
        }
    }

    fn note(&mut self, what: String) {
        if self.happenings.len() >= KEPT {
            self.happenings.remove(0);
        }
        self.happenings.push(Happening { after: self.stage.started.elapsed(), what });
    }

    async fn obey(&mut self, key: Key) {
        let count = self.stage.world.all().count();
        match key {
            Key::Choose(number) if number < count => self.selected = number,
            Key::Next => self.selected = (self.selected + 1) % count,
            Key::Previous => self.selected = (self.selected + count - 1) % count,
            Key::Kill | Key::Drain | Key::Lag => self.disturb(key).await,
            Key::Choose(_) | Key::Redraw | Key::Quit => {}
        }
    }

    async fn disturb(&mut self, key: Key) {
        let Some((known, region)) = self.stage.world.all().nth(self.selected) else { return };
        let (id, role) = (known.id, known.role);
        let said = match key {
            Key::Kill => {
                let alive = !region.state.is_alive();
                region.state.set_alive(alive);
                format!("you {} {id}", if alive { "revived" } else { "killed" })
            }
            Key::Lag if role == Role::Primary => {
                format!("{id} is the primary: it has nothing to lag behind")
            }
            Key::Lag => {
                let lagged = !self.stage.world.is_lagged(id);
                self.stage.world.set_lagged(id, lagged);
                let lag = region.state.lag().as_secs_f64();
                format!(
                    "you {} {id}: its data is {lag:.1} s old",
                    if lagged { "lagged" } else { "let catch up" }
                )
            }
            _ => {
                let drained = self.stage.facts.regions.get(id).is_some_and(|facts| facts.drained);
                let done = self.stage.drain(id, !drained).await;
                // The table ought to show it at once; if the edge is silent, the next tick says so.
                let looked = self.stage.look().await;
                match done.and(looked) {
                    Ok(()) if drained => format!("you took the drain of {id} back"),
                    Ok(()) => format!("you drained {id}"),
                    Err(error) => format!("the drain of {id} was not changed: {error:#}"),
                }
            }
        };
        self.note(said);
    }
}

/// What the edge tells of itself, in words.
struct Events {
    said: mpsc::Receiver<String>,
    task: JoinHandle<()>,
}

impl Events {
    fn follow(admin: AdminClient) -> Self {
        let (sender, said) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            let followed = follow_events(&admin, |data| {
                // What the history says of a region, its endpoints and the operator have said.
                if let Ok(event) = serde_json::from_str::<EventView>(data)
                    && event.kind != "history"
                {
                    // Who cannot keep up loses events, not memory.
                    let _ = sender.try_send(describe(&event));
                }
                Ok(())
            });
            if let Err(error) = followed.await {
                tracing::warn!(error = %format!("{error:#}"), "the stream of events has ended");
            }
        });
        Self { said, task }
    }

    async fn next(&mut self) -> String {
        match self.said.recv().await {
            Some(what) => what,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}
