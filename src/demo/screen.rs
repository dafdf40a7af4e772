//! What is seen while the demo plays. In a terminal, bars that move; elsewhere the same as plain lines.
//! All of it is talk, so it goes to standard error.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::Surroundings;

/// Without a terminal, how often it is said how far things are.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// How often what moves is moved.
const TICK: Duration = Duration::from_millis(100);

/// Escape codes, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    is_colored: bool,
}

impl Paint {
    fn new(is_terminal: bool, surroundings: &Surroundings) -> Self {
        Self { is_colored: is_terminal && !surroundings.is_dumb && !surroundings.wants_no_color }
    }

    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { is_colored: false }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.with("1;32", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.is_colored { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

pub(super) fn paint_of_stdout(surroundings: &Surroundings) -> Paint {
    Paint::new(io::stdout().is_terminal(), surroundings)
}

/// With a comma between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) struct Screen {
    started: Instant,
    paint: Paint,
    is_utf8: bool,
    /// None without a terminal.
    moving: Option<MultiProgress>,
    load: RefCell<Option<Load>>,
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Screen")
    }
}

/// How far orders have come.
struct Load {
    bars: Option<Bars>,
    said: Cell<Instant>,
}

struct Bars {
    committed: ProgressBar,
    delivered: ProgressBar,
}

impl Screen {
    pub(super) fn new(surroundings: &Surroundings) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self {
            started: Instant::now(),
            paint: Paint::new(is_terminal, surroundings),
            is_utf8: surroundings.is_utf8,
            moving: (is_terminal && !surroundings.is_dumb).then(MultiProgress::new),
            load: RefCell::default(),
        }
    }

    /// What it is about.
    pub(super) fn title(&self, text: &str) {
        self.write(&format!("{}\n\n", self.paint.bold(text)));
    }

    /// Something has happened.
    pub(super) fn line(&self, text: &str) {
        self.stamped(text);
    }

    /// Something bad has happened, as it was meant to.
    pub(super) fn bad(&self, text: &str) {
        self.stamped(&self.paint.red(text));
    }

    /// It is well again.
    pub(super) fn good(&self, text: &str) {
        self.stamped(&self.paint.green(text));
    }

    /// A file's text.
    pub(super) fn quote(&self, text: &str) {
        let lines = text.lines().filter(|line| !line.is_empty());
        self.write(&lines.map(|line| format!("           {}\n", self.paint.dim(line))).collect::<String>());
    }

    /// Text as it is.
    pub(super) fn text(&self, text: &str) {
        self.write(text);
    }

    fn stamped(&self, text: &str) {
        let elapsed = format!("{:>5.1} s", self.started.elapsed().as_secs_f64());
        self.write(&format!("{}  {text}\n", self.paint.dim(&elapsed)));
    }

    /// Above what moves. If nobody looks, the play goes on: the ledger is what counts.
    fn write(&self, text: &str) {
        let write = || {
            let _ = io::stderr().lock().write_all(text.as_bytes());
        };
        match &self.moving {
            Some(moving) => moving.suspend(write),
            None => write(),
        }
    }

    /// Something takes a moment; shown until dropped, and only in a terminal.
    pub(super) fn busy(&self, text: &str) -> Busy {
        let Some(moving) = &self.moving else { return Busy(ProgressBar::hidden()) };
        let bar = moving.add(ProgressBar::new_spinner());
        bar.set_style(self.style("         {spinner} {msg}"));
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(TICK);
        Busy(bar)
    }

    /// The bar of a download, whose length it will be told.
    pub(super) fn download(&self) -> ProgressBar {
        let Some(moving) = &self.moving else { return ProgressBar::hidden() };
        let bar = moving.add(ProgressBar::new(0));
        let template = "         {bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}";
        bar.set_style(self.style(template));
        bar
    }

    /// Orders begin to be placed.
    pub(super) fn begin_load(&self, orders: u64) {
        let bars = self.moving.as_ref().map(|moving| {
            let bar = |name: &str, color: &str| {
                let bar = moving.add(ProgressBar::new(orders));
                let color = if self.paint.is_colored { color } else { "" };
                bar.set_style(self.style(&format!("  {{prefix:>9}}  {{bar:40{color}}} {{msg}}")));
                bar.set_prefix(name.to_owned());
                bar
            };
            Bars { committed: bar("committed", ".cyan"), delivered: bar("delivered", ".green") }
        });
        *self.load.borrow_mut() = Some(Load { bars, said: Cell::new(Instant::now()) });
    }

    /// How far orders have come.
    pub(super) fn progress(&self, committed: u64, delivered: u64) {
        let load = self.load.borrow();
        let Some(load) = load.as_ref() else { return };
        // A record may be read before its writer has heard of the commit.
        let waiting = grouped(committed.saturating_sub(delivered));
        match &load.bars {
            Some(bars) => {
                bars.committed.set_message(grouped(committed));
                bars.committed.set_position(committed);
                bars.delivered.set_message(format!("{}, {waiting} waiting", grouped(delivered)));
                bars.delivered.set_position(delivered);
            }
            None if load.said.get().elapsed() >= SAY_EVERY => {
                load.said.set(Instant::now());
                let (committed, delivered) = (grouped(committed), grouped(delivered));
                self.stamped(&format!("{committed} committed, {delivered} delivered, {waiting} waiting"));
            }
            None => {}
        }
    }

    /// All orders have arrived.
    pub(super) fn end_load(&self) {
        if let Some(Load { bars: Some(bars), .. }) = self.load.take() {
            bars.committed.finish_and_clear();
            bars.delivered.finish_and_clear();
        }
    }

    /// Nothing moves any more.
    pub(super) fn close(&self) {
        self.end_load();
        if let Some(moving) = &self.moving {
            let _ = moving.clear();
        }
    }

    fn style(&self, template: &str) -> ProgressStyle {
        let style = ProgressStyle::with_template(template).expect("the templates are ours");
        if self.is_utf8 {
            style.progress_chars("━╸─")
        } else {
            style.progress_chars("=>-").tick_chars("|/-\\ ")
        }
    }
}

/// Shown until dropped.
#[derive(Debug)]
pub(super) struct Busy(ProgressBar);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        let written = [0, 999, 1_000, 20_000, 1_234_567].map(grouped);
        assert_eq!(written, ["0", "999", "1,000", "20,000", "1,234,567"]);
    }

    #[test]
    fn color_is_for_terminals_that_want_it() {
        let with =
            |is_dumb, wants_no_color| Surroundings { is_dumb, wants_no_color, ..Surroundings::default() };
        assert!(Paint::new(true, &with(false, false)).red("x").contains('\u{1b}'));
        for (is_terminal, is_dumb, wants_no_color) in
            [(false, false, false), (true, true, false), (true, false, true)]
        {
            assert_eq!(Paint::new(is_terminal, &with(is_dumb, wants_no_color)).red("x"), "x");
        }
    }
}
