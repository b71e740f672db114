//! `finhook queues --watch` on a terminal: one line a queue with the course of its depth, drawn anew at every look.
//!
//! Law: whatever happens, the terminal is given back as it was. What is away is said at the bottom, the last figures stay.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::look::{Look, Looker};
use super::{HEADER, cells, seconds, stop};
use crate::cli::Done;
use crate::pipeline::watch::QueueNow;

/// How many looks the course goes back: as many columns as a wide terminal has.
const KEPT: usize = 240;

/// How often a thread that waits for a key looks whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(100);

/// The widths of the columns, the queue's name left out.
const WIDTHS: [u16; HEADER.len() - 1] = [9, 9, 10, 9, 9, 12];

/// What is on the screen.
#[derive(Default)]
pub(super) struct Screen {
    queues: Vec<QueueNow>,
    /// Of each queue the depths seen so far, oldest first.
    courses: BTreeMap<Arc<str>, VecDeque<u64>>,
    at: String,
    left_out: Vec<String>,
}

/// What a person at the keyboard wants.
enum Wish {
    Quit,
    Redraw,
}

/// Watches until q, Esc or Ctrl-C.
pub(super) async fn watch(looker: &mut Looker, every: Duration) -> anyhow::Result<Done> {
    // The first look is taken before the screen is: a broker that is away at once is an error like any other.
    let mut screen = Screen::default();
    screen.take(looker.look().await?);
    let stop = stop()?;
    let mut terminal = ratatui::try_init().context("take the terminal")?;
    let (wishes, mut wished) = mpsc::unbounded_channel();
    let wanted = Arc::new(AtomicBool::new(true));
    let listening = wanted.clone();
    let keyboard = std::thread::spawn(move || listen(&listening, &wishes));
    let watched = async {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            terminal.draw(|frame| screen.draw(frame)).context("draw")?;
            let looked = async {
                ticks.tick().await;
                looker.look().await
            };
            tokio::select! {
                looked = looked => {
                    screen.take(looked.unwrap_or_else(|error| Look::failed(looker.now(), &error)));
                }
                wish = wished.recv() => match wish {
                    Some(Wish::Redraw) => {}
                    Some(Wish::Quit) | None => return anyhow::Ok(Done::Yes),
                },
                // From elsewhere: at this keyboard it is a key.
                () = stop.begun() => return Ok(Done::Yes),
            }
        }
    };
    let done = watched.await;
    wanted.store(false, Ordering::Relaxed);
    let _ = keyboard.join();
    ratatui::try_restore().context("give the terminal back")?;
    done
}

/// Reads keys until nobody wants them, or the terminal is gone.
fn listen(wanted: &AtomicBool, wishes: &mpsc::UnboundedSender<Wish>) {
    while wanted.load(Ordering::Relaxed) {
        let happened = match event::poll(GLANCE) {
            Ok(false) => continue,
            Ok(true) => event::read().ok(),
            Err(_) => None,
        };
        let wish = match happened {
            Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match key.code {
                KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
                _ => continue,
            },
            Some(Event::Resize(..)) => Wish::Redraw,
            Some(_) => continue,
            // The terminal is gone.
            None => Wish::Quit,
        };
        let over = matches!(wish, Wish::Quit);
        if wishes.send(wish).is_err() || over {
            return;
        }
    }
}

impl Screen {
    /// Takes over a look; one that saw nothing leaves what was seen before.
    pub(super) fn take(&mut self, look: Look) {
        self.left_out = look.left_out;
        if look.queues.is_empty() {
            return;
        }
        self.at = seconds(look.at).to_string();
        for queue in &look.queues {
            let course = self.courses.entry(queue.queue.clone()).or_default();
            if course.len() >= KEPT {
                course.pop_front();
            }
            course.push_back(queue.ready.saturating_add(queue.unacked.unwrap_or(0)));
        }
        self.queues = look.queues;
    }

    fn draw(&self, frame: &mut Frame) {
        let name = self.queues.iter().map(|queue| queue.queue.len()).max().unwrap_or(0).max(HEADER[0].len());
        let name = u16::try_from(name).unwrap_or(u16::MAX).min(40);
        let [header, body, footer] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(2)]).areas(frame.area());
        let bold = Style::default().add_modifier(Modifier::BOLD);
        let titles = HEADER.map(str::to_uppercase);
        row(frame, header, name, &titles, bold);
        let lines = Layout::vertical(self.queues.iter().map(|_| Constraint::Length(1))).split(body);
        for (queue, line) in self.queues.iter().zip(lines.iter()) {
            let attention = if queue.ready > 0 { bold } else { Style::default() };
            let rest = row(frame, *line, name, &cells(queue), attention);
            let course: Vec<u64> = self.courses.get(&queue.queue).into_iter().flatten().copied().collect();
            // The newest at the right edge, as many as fit.
            let shown = course.len().saturating_sub(usize::from(rest.width));
            frame.render_widget(Sparkline::default().data(course.iter().skip(shown).copied()), rest);
        }
        let said = match self.left_out.first() {
            Some(trouble) => Span::styled(trouble.clone(), bold),
            None => Span::raw(""),
        };
        let keys = Line::raw(format!("{}   q quits", self.at));
        frame.render_widget(Paragraph::new(vec![said.into(), keys]), footer);
    }
}

/// One line of cells; what is left of it at the right.
fn row(frame: &mut Frame, area: Rect, name: u16, cells: &[String; HEADER.len()], style: Style) -> Rect {
    let widths = std::iter::once(Constraint::Length(name))
        .chain(WIDTHS.map(Constraint::Length))
        .chain([Constraint::Length(1), Constraint::Min(0)]);
    let areas = Layout::horizontal(widths).split(area);
    for (index, (cell, area)) in cells.iter().zip(areas.iter()).enumerate() {
        let text = Paragraph::new(cell.as_str()).style(style);
        frame.render_widget(if index == 0 { text } else { text.right_aligned() }, *area);
    }
    areas.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::tests::queue;
    use super::*;
    use crate::domain::Timestamp;

    fn look(ready: u64) -> Look {
        let at = Timestamp::parse("2026-11-25T12:00:00.5Z").unwrap();
        Look { at, queues: vec![queue("finhook.plaid", 0), queue("finhook.unit", ready)], left_out: Vec::new() }
    }

    fn drawn(screen: &Screen) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(90, 6)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..90).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>().trim_end().to_owned();
        (0..6).map(line).collect()
    }

    #[test]
    fn each_queue_is_a_line_with_its_course_and_the_newest_at_the_right() {
        let mut screen = Screen::default();
        (0..100).for_each(|ready| screen.take(look(ready)));
        let lines = drawn(&screen);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines[0]), ["QUEUE", "READY", "UNACKED", "CONSUMERS", "IN/S", "OUT/S", "LAG"]);
        let unit = words(&lines[2]);
        assert_eq!(unit[..7], ["finhook.unit", "99", "2", "-", "3.2", "-", "1day"]);
        assert!(unit.last().unwrap().ends_with('█'), "{unit:?}");
        assert!(lines[5].starts_with("2026-11-25T12:00:00Z   q quits"), "{}", lines[5]);
    }

    #[test]
    fn a_look_that_failed_leaves_the_last_figures_and_says_why() {
        let mut screen = Screen::default();
        screen.take(look(7));
        screen.take(Look { queues: Vec::new(), left_out: vec!["the broker is away".to_owned()], ..look(0) });
        let lines = drawn(&screen);
        assert!(lines[2].contains(" 7 ") && lines[4].contains("the broker is away"), "{lines:?}");
    }
}
