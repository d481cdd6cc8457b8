//! Keys from a terminal.
//!
//! Promises: the terminal is as it was when [`Keyboard`] is dropped, or the program panics. Refuses to
//! know: what the keys do.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossterm::cursor;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use crossterm::execute;
use crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use tokio::sync::mpsc;

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// The region of this number, from 0.
    Choose(usize),
    Next,
    Previous,
    Kill,
    Drain,
    Lag,
    Quit,
    /// The terminal has another size.
    Redraw,
}

/// How long the reading thread waits before it looks whether it should end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Keys that were pressed but not dealt with yet.
const QUEUE: usize = 32;

/// The terminal in raw mode, on its alternate screen.
#[derive(Debug)]
pub(crate) struct Keyboard {
    pub(crate) keys: mpsc::Receiver<Key>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    _screen: Screen,
}

/// The terminal is taken over as long as this lives.
#[derive(Debug)]
struct Screen;

impl Keyboard {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When it cannot be set up.
    pub(crate) fn start() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Screen;
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        let (sender, keys) = mpsc::channel(QUEUE);
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let reader = std::thread::Builder::new().name("keys".into());
        let reader = reader.spawn(move || read(&sender, &ended))?;
        Ok(Self { keys, over, reader: Some(reader), _screen: screen })
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // It only fails if the thread has panicked.
            let _ = reader.join();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// There is nobody left to tell when this fails.
fn give_back() {
    let mut out = io::stdout();
    let _ = execute!(out, cursor::Show, LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
    let _ = out.flush();
}

fn read(keys: &mpsc::Sender<Key>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let pressed = match event::poll(LOOK_EVERY) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let key = match pressed {
            Ok(Event::Key(press)) if press.is_press() => meaning(press),
            Ok(Event::Resize(..)) => Some(Key::Redraw),
            Ok(_) => None,
            Err(_) => Some(Key::Quit),
        };
        // A full queue means that keys come faster than they can be obeyed: this one is lost.
        if let Some(key) = key
            && matches!(keys.try_send(key), Err(mpsc::error::TrySendError::Closed(_)))
        {
            return;
        }
    }
}

fn meaning(press: KeyEvent) -> Option<Key> {
    let control = press.modifiers.contains(KeyModifiers::CONTROL);
    Some(match press.code {
        KeyCode::Char('c' | 'd') if control => Key::Quit,
        KeyCode::Char(digit @ '1'..='9') => Key::Choose(digit as usize - '1' as usize),
        KeyCode::Char('j') | KeyCode::Down | KeyCode::Tab => Key::Next,
        KeyCode::Up | KeyCode::BackTab => Key::Previous,
        KeyCode::Char('k' | 'r') => Key::Kill,
        KeyCode::Char('d' | 'u') => Key::Drain,
        KeyCode::Char('l') => Key::Lag,
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_hints_say() {
        let press = |code, modifiers| meaning(KeyEvent::new(code, modifiers));
        let plain = |char| press(KeyCode::Char(char), KeyModifiers::NONE);
        assert_eq!(plain('1'), Some(Key::Choose(0)));
        assert_eq!(plain('4'), Some(Key::Choose(3)));
        let meanings = ['k', 'd', 'l', 'q', 'x'].map(plain);
        assert_eq!(
            meanings,
            [Some(Key::Kill), Some(Key::Drain), Some(Key::Lag), Some(Key::Quit), None]
        );
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(press(KeyCode::Char('d'), KeyModifiers::CONTROL), Some(Key::Quit));
    }
}
