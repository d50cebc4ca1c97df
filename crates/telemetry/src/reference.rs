//! The reference of a program's metrics: a table made from what its registry writes.
//!
//! The table cannot say anything else than the registry, because nothing else is read. A registry keeps silent about
//! a family that has no sample yet, so the caller uses each metric once before.
//!
//! Source: OpenMetrics 1.0, "Text format".

/// The head of the table.
const HEAD: &str = "| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n";

/// Makes a Markdown table of all metrics in `exposition`, sorted by name.
#[must_use]
pub fn reference(exposition: &str) -> String {
    let mut metrics: Vec<_> = exposition.split("# HELP ").skip(1).map(Described::read).collect();
    metrics.sort_by_key(|described| described.name);
    let rows: String = metrics.iter().map(Described::row).collect();
    format!("{HEAD}{rows}")
}

/// What the registry writes about one metric.
#[derive(Debug, Default)]
struct Described<'a> {
    name: &'a str,
    help: &'a str,
    kind: &'a str,
    unit: Option<&'a str>,
    /// Any.
    sample: &'a str,
}

impl<'a> Described<'a> {
    fn read(about: &'a str) -> Self {
        let mut lines = about.lines();
        let (name, help) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or_default();
        let mut described = Self { name, help, ..Self::default() };
        for line in lines {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["#", "TYPE", _, kind] => described.kind = kind,
                ["#", "UNIT", _, unit] => described.unit = Some(unit),
                ["#", ..] => {}
                _ => described.sample = line,
            }
        }
        described
    }

    fn row(&self) -> String {
        let Self { name, help, kind, .. } = self;
        let suffix = if *kind == "counter" { "_total" } else { "" };
        let unit = self.unit.unwrap_or("-");
        let labels: Vec<String> = labels(self.sample).map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
        format!("| `{name}{suffix}` | {kind} | {unit} | {labels} | {help} |\n")
    }
}

/// The labels of a sample, except the one that histograms have of themselves.
fn labels(sample: &str) -> impl Iterator<Item = &str> {
    let inside =
        sample.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inside, _)| inside);
    // name="value",name="value"
    let outside_of_quotes = inside.split('"').step_by(2);
    outside_of_quotes.map(|name| name.trim_matches([',', '='])).filter(|name| !["", "le"].contains(name))
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
        registry::Unit,
    };

    use super::*;
    use crate::metrics::Metrics;

    type Labels = Vec<(String, String)>;

    #[test]
    fn says_what_the_registry_says() {
        let metrics = Metrics::new();
        let calls = Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new([1.0, 2.0]));
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("kuryr");
            registry.register("ports", "Ports", Gauge::<i64>::default());
            registry.register("events", "Events", Counter::<u64>::default());
            registry.register_with_unit("call", "Calls", Unit::Seconds, calls.clone());
        });
        let labels = [("verb", "a,b={}"), ("code", "1")];
        calls.get_or_create(&labels.map(|(name, value)| (name.into(), value.into())).into()).observe(1.5);
        let rows = "\
            | `kuryr_call_seconds` | histogram | seconds | `verb`, `code` | Calls. |\n\
            | `kuryr_events_total` | counter | - | - | Events. |\n\
            | `kuryr_ports` | gauge | - | - | Ports. |\n";
        assert_eq!(reference(&metrics.encode().unwrap()), format!("{HEAD}{rows}"));
    }
}
