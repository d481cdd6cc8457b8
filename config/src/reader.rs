//! Reads typed values out of parsed TOML and collects everything that is wrong on the way.
//!
//! Promises: one pass finds all errors, each with its place; every key of a table that nobody asked for is an
//! error. A reading function that failed has said why and gives `None`, so that callers go on with a default.
//! Refuses to know: which keys there are.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::finding::Note;
use crate::suggest::{did_you_mean, nearest};
use crate::unavailable;
use crate::values::{self, show_duration, show_size};

/// After so many errors no more suggestions are sought: they cost time with many names.
const SUGGESTIONS: u32 = 100;

/// What all tables of one file share.
pub(crate) struct Context<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    directory: PathBuf,
    suggestions_left: Cell<u32>,
    pub(crate) errors: RefCell<Vec<Note>>,
    pub(crate) warnings: RefCell<Vec<Note>>,
}

impl<'a> Context<'a> {
    /// `directory` is the one that relative paths start from.
    pub(crate) fn new(env: &'a dyn Fn(&str) -> Option<String>, directory: PathBuf) -> Self {
        Self {
            env,
            directory,
            suggestions_left: Cell::new(SUGGESTIONS),
            errors: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// A path of the file, made absolute.
    pub(crate) fn resolve(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    /// [`did_you_mean`], as long as it is affordable.
    pub(crate) fn suggest<'n>(
        &self,
        unknown: &str,
        known: impl IntoIterator<Item = &'n str>,
    ) -> String {
        let left = self.suggestions_left.get();
        self.suggestions_left.set(left.saturating_sub(1));
        if left == 0 { String::new() } else { did_you_mean(unknown, known) }
    }
}

/// A table, present or not; an absent one reads as empty.
pub(crate) struct Table<'a> {
    pub(crate) cx: &'a Context<'a>,
    entries: Option<&'a DeTable<'a>>,
    path: Path<'a>,
    offset: usize,
    asked: RefCell<Vec<&'static str>>,
}

/// Such as `services[2].retry`; empty for the root.
enum Path<'a> {
    Whole(String),
    /// A key of the table with this path, which is not there: nearly always nobody asks for the whole.
    Missing(&'a str, &'a str),
}

impl Path<'_> {
    fn whole(&self) -> Cow<'_, str> {
        match self {
            Self::Whole(path) => path.into(),
            Self::Missing(table, key) => join(table, key).into(),
        }
    }
}

/// A value and where it stands.
pub(crate) struct Item<'a> {
    pub(crate) cx: &'a Context<'a>,
    value: &'a Spanned<DeValue<'a>>,
    table: &'a str,
    pub(crate) key: &'a str,
    index: Option<usize>,
}

/// A place to blame after its value was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Site {
    offset: usize,
    path: String,
}

impl Site {
    pub(crate) fn error(&self, cx: &Context<'_>, message: impl Into<String>) {
        cx.errors.borrow_mut().push(self.note(message.into()));
    }

    pub(crate) fn warning(&self, cx: &Context<'_>, message: impl Into<String>) {
        cx.warnings.borrow_mut().push(self.note(message.into()));
    }

    /// Such as `routes[3].service`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn note(&self, message: String) -> Note {
        Note { offset: self.offset, path: self.path.clone(), message }
    }
}

impl<'a> Table<'a> {
    /// The whole file.
    pub(crate) fn root(cx: &'a Context<'a>, entries: &'a DeTable<'a>) -> Self {
        Self::new(cx, Some(entries), Path::Whole(String::new()), 0)
    }

    fn new(
        cx: &'a Context<'a>,
        entries: Option<&'a DeTable<'a>>,
        path: Path<'a>,
        offset: usize,
    ) -> Self {
        Self { cx, entries, path, offset, asked: RefCell::default() }
    }

    /// Whether the file has this table.
    pub(crate) fn is_present(&self) -> bool {
        self.entries.is_some()
    }

    /// Whether the file has this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// The value of a key, if it is there.
    pub(crate) fn item<'t>(&'t self, key: &'static str) -> Option<Item<'t>> {
        self.asked.borrow_mut().push(key);
        let (_, value) = self.entries?.get_key_value(key)?;
        let Path::Whole(table) = &self.path else { return None };
        Some(Item { cx: self.cx, value, table, key, index: None })
    }

    /// The value of a key that must be there.
    pub(crate) fn required<'t>(&'t self, key: &'static str) -> Option<Item<'t>> {
        let item = self.item(key);
        if item.is_none() {
            self.site_of(key).error(self.cx, "is required");
        }
        item
    }

    /// What `read` makes of the key's value, or the default.
    pub(crate) fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Item<'_>) -> Option<T>,
    ) -> T {
        self.item(key).and_then(|item| read(&item)).unwrap_or(default)
    }

    /// A flag that is off unless the file says otherwise.
    pub(crate) fn flag(&self, key: &'static str) -> bool {
        self.or(key, false, |item| item.flag())
    }

    /// Reads a table inside this one; an absent one reads as empty.
    pub(crate) fn section<T>(&self, key: &'static str, read: impl FnOnce(&Table<'_>) -> T) -> T {
        let item = self.item(key);
        let table = item.as_ref().and_then(Item::table);
        let path = self.path.whole();
        let missing = Path::Missing(&path, key);
        let table = table.unwrap_or_else(|| Table::new(self.cx, None, missing, self.offset));
        let result = read(&table);
        table.finish();
        result
    }

    /// Reads each table of an array of tables.
    pub(crate) fn each<T>(
        &self,
        key: &'static str,
        mut read: impl FnMut(&Table<'_>) -> T,
    ) -> Vec<T> {
        let Some(array) = self.item(key) else { return Vec::new() };
        let items = array.items("an array of tables");
        // Of ten thousand routes a list that grows would be moved more often than it is read.
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            if let Some(table) = item.table() {
                results.push(read(&table));
                table.finish();
            }
        }
        results
    }

    /// Reads each entry of a table whose keys are free, such as header names; [`Item::key`] is the name.
    pub(crate) fn entries(&self, key: &'static str, mut read: impl FnMut(&Item<'_>)) {
        let Some(item) = self.item(key) else { return };
        let Some(entries) = item.value.get_ref().as_table() else {
            item.mismatch::<()>("a table");
            return;
        };
        let path = join(&self.path.whole(), key);
        for (name, value) in entries {
            read(&Item { cx: self.cx, value, table: &path, key: name.get_ref(), index: None });
        }
    }

    /// Where a key stands, or would stand.
    pub(crate) fn site_of(&self, key: &str) -> Site {
        let value = self.entries.and_then(|entries| entries.get(key));
        let offset = value.map_or(self.offset, |value| value.span().start);
        Site { offset, path: join(&self.path.whole(), key) }
    }

    /// Where the table stands.
    pub(crate) fn site(&self) -> Site {
        Site { offset: self.offset, path: self.path.whole().into_owned() }
    }

    /// Refuses every key that nobody asked for.
    pub(crate) fn finish(&self) {
        let asked = self.asked.borrow();
        for (key, _) in self.entries.into_iter().flatten() {
            let name: &str = key.get_ref();
            if asked.contains(&name) {
                continue;
            }
            let path = self.path.whole();
            let what = if path.is_empty() { "section" } else { "key" };
            let message = format!("unknown {what}{}", self.cx.suggest(name, asked.iter().copied()));
            let site = Site { offset: key.span().start, path: join(&path, name) };
            site.error(self.cx, message);
        }
    }
}

impl<'a> Item<'a> {
    /// Where it stands.
    pub(crate) fn site(&self) -> Site {
        let mut path = join(self.table, self.key);
        if let Some(index) = self.index {
            path.push_str(&format!("[{index}]"));
        }
        Site { offset: self.value.span().start, path }
    }

    /// Notes an error; `None` for the caller to pass on.
    pub(crate) fn fail<T>(&self, message: impl Into<String>) -> Option<T> {
        self.site().error(self.cx, message);
        None
    }

    fn mismatch<T>(&self, expected: &str) -> Option<T> {
        self.fail(format!("expected {expected}, found {}", self.value.get_ref().type_str()))
    }

    /// A string, `${ENV}` expanded.
    pub(crate) fn text(&self) -> Option<Cow<'a, str>> {
        self.text_like("a string")
    }

    fn text_like(&self, expected: &str) -> Option<Cow<'a, str>> {
        let DeValue::String(text) = self.value.get_ref() else { return self.mismatch(expected) };
        values::expand(text, self.cx.env).map_or_else(|message| self.fail(message), Some)
    }

    /// A string, if it is one and its variables are set; says nothing if not.
    pub(crate) fn word(&self) -> Option<Cow<'a, str>> {
        values::expand(self.value.get_ref().as_str()?, self.cx.env).ok()
    }

    /// Whether it is an array.
    pub(crate) fn is_array(&self) -> bool {
        self.value.get_ref().is_array()
    }

    /// Whether it is an array of nothing.
    pub(crate) fn is_empty_array(&self) -> bool {
        self.value.get_ref().as_array().is_some_and(|array| array.is_empty())
    }

    /// The string as the file writes it, if it names environment variables.
    pub(crate) fn with_variables(&self) -> Option<&'a str> {
        self.value.get_ref().as_str().filter(|text| text.contains("${"))
    }

    /// A string that `parse` accepts.
    pub(crate) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text()?;
        parse(&text).map_or_else(|message| self.fail(message), Some)
    }

    /// Refuses a value that only a later version takes.
    pub(crate) fn available(&self, text: &str) -> Option<()> {
        if unavailable::is_unavailable_value(self.table, self.key, text) {
            return self.fail(format!("{text:?} is not available in this version"));
        }
        Some(())
    }

    /// One of some words.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        self.available(&text)?;
        let names = || choices.iter().map(|(name, _)| *name);
        if let Some(near) = nearest(&text, names()) {
            return self.fail(format!("unknown value {text:?}; did you mean {near:?}?"));
        }
        let names: Vec<_> = names().map(|name| format!("{name:?}")).collect();
        self.fail(format!("unknown value {text:?}; expected {}", names.join(", ")))
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self) -> Option<bool> {
        self.value.get_ref().as_bool().or_else(|| self.mismatch("true or false"))
    }

    /// A whole number in a range.
    pub(crate) fn whole<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return self.mismatch("a whole number");
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|number| T::try_from(number).ok());
        number.filter(|number| range.contains(number)).or_else(|| {
            self.fail(format!("{integer} is not from {} to {}", range.start(), range.end()))
        })
    }

    /// A number in a range.
    pub(crate) fn number(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let text = match self.value.get_ref() {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            _ => return self.mismatch("a number"),
        };
        text.parse().ok().filter(|number| range.contains(number)).or_else(|| {
            self.fail(format!("{text} is not from {} to {}", range.start(), range.end()))
        })
    }

    /// A duration in a range.
    pub(crate) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        if let DeValue::Integer(number) = self.value.get_ref() {
            return self.fail(format!(
                "a duration needs a unit: \"{number}ms\", \"{number}s\", \"{number}m\" or \"{number}h\""
            ));
        }
        let text = self.text_like("a duration such as \"250ms\"")?;
        let value = values::duration(&text).map_or_else(|message| self.fail(message), Some)?;
        self.in_range(value, &range, show_duration)
    }

    /// A size in bytes in a range.
    pub(crate) fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        if let DeValue::Integer(number) = self.value.get_ref() {
            return self.fail(format!(
                "a size needs a unit: \"{number}B\", \"{number}KiB\" or \"{number}MiB\""
            ));
        }
        let text = self.text_like("a size such as \"64KiB\"")?;
        let value = values::size(&text).map_or_else(|message| self.fail(message), Some)?;
        self.in_range(value, &range, show_size)
    }

    fn in_range<T: Copy + PartialOrd>(
        &self,
        value: T,
        range: &RangeInclusive<T>,
        show: impl Fn(T) -> String,
    ) -> Option<T> {
        if range.contains(&value) {
            return Some(value);
        }
        let (low, high) = (show(*range.start()), show(*range.end()));
        self.fail(format!("{} is not from {low} to {high}", show(value)))
    }

    /// The elements of an array; empty after an error.
    pub(crate) fn items(&self, expected: &str) -> Vec<Item<'a>> {
        let Some(array) = self.value.get_ref().as_array() else {
            self.mismatch::<()>(expected);
            return Vec::new();
        };
        let item = |(index, value)| Item { value, index: Some(index), ..*self };
        array.iter().enumerate().map(item).collect()
    }

    /// What `read` makes of each element of an array.
    pub(crate) fn list<T>(&self, read: impl FnMut(&Item<'a>) -> Option<T>) -> Vec<T> {
        self.items("an array").iter().filter_map(read).collect()
    }

    /// A table.
    pub(crate) fn table(&self) -> Option<Table<'a>> {
        let Some(entries) = self.value.get_ref().as_table() else {
            return self.mismatch("a table");
        };
        let Site { offset, path } = self.site();
        Some(Table::new(self.cx, Some(entries), Path::Whole(path), offset))
    }
}

fn join(table: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let key = if !key.is_empty() && key.chars().all(bare) {
        Cow::Borrowed(key)
    } else {
        Cow::Owned(format!("{key:?}"))
    };
    if table.is_empty() { key.into_owned() } else { format!("{table}.{key}") }
}
