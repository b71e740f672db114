//! What was found: medians of the rounds, ratios to the floor of the same round, and the line that each has to keep.

use comfy_table::Table;
use serde::Serialize;

/// One line of the report.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What was measured.
    pub what: String,
    /// The median over the rounds.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The floor in the same run, in the same unit.
    pub floor: Option<f64>,
    /// The median of the rounds' own ratios.
    pub ratio: Option<f64>,
    /// What it has to be.
    pub wanted: Option<String>,
    /// Whether it is.
    pub kept: Option<bool>,
    /// Every round.
    pub rounds: Vec<f64>,
}

/// All lines.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// In the order of their measurement.
    pub lines: Vec<Line>,
}

/// What a line has to keep.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// Nothing: it is there to be read.
    Nothing,
    /// The value is at most this.
    AtMost(f64),
    /// The ratio to the floor is at least this.
    RatioAtLeast(f64),
    /// The ratio to the floor is at most this.
    RatioAtMost(f64),
    /// The value is at most the floor and this.
    AtMostAbove(f64),
}

impl Report {
    /// Adds values of one unit, measured in rounds, beside the floor of each round if there is one.
    pub fn add(&mut self, what: &str, unit: &'static str, rounds: &[f64], floors: &[f64], wanted: Wanted) {
        let value = median(rounds);
        let floor = (!floors.is_empty()).then(|| median(floors));
        let pairs = || rounds.iter().zip(floors);
        let ratio = floor.map(|_| median(&pairs().map(|(value, floor)| value / floor).collect::<Vec<_>>()));
        let above = median(&pairs().map(|(value, floor)| value - floor).collect::<Vec<_>>());
        let (wanted, kept) = match wanted {
            Wanted::Nothing => (None, None),
            Wanted::AtMost(most) => (Some(format!("<= {most} {unit}")), Some(value <= most)),
            Wanted::RatioAtLeast(least) => {
                (Some(format!(">= {least} of the floor")), ratio.map(|ratio| ratio >= least))
            }
            Wanted::RatioAtMost(most) => (Some(format!("<= {most} of the floor")), ratio.map(|ratio| ratio <= most)),
            Wanted::AtMostAbove(most) => (Some(format!("<= floor + {most:.1} {unit}")), Some(above <= most)),
        };
        let line = Line { what: what.to_owned(), value, unit, floor, ratio, wanted, kept, rounds: rounds.to_vec() };
        println!("{}", line.text());
        self.lines.push(line);
    }

    /// All of it as a table.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["measured", "median", "unit", "floor", "ratio", "wanted", "kept"]);
        for line in &self.lines {
            table.add_row([
                line.what.clone(),
                number(line.value),
                line.unit.to_owned(),
                line.floor.map(number).unwrap_or_default(),
                line.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
                line.wanted.clone().unwrap_or_default(),
                line.kept.map(|kept| if kept { "yes" } else { "NO" }).unwrap_or_default().to_owned(),
            ]);
        }
        table.to_string()
    }
}

impl Line {
    fn text(&self) -> String {
        let rounds: Vec<String> = self.rounds.iter().map(|round| number(*round)).collect();
        let ratio = self.ratio.map(|ratio| format!(", {ratio:.2} of the floor")).unwrap_or_default();
        format!("  {}: {} {}{ratio} (rounds {})", self.what, number(self.value), self.unit, rounds.join(", "))
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The middle one; of an even number of them the lower middle one; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len().saturating_sub(1)) / 2).copied().unwrap_or_default()
}
