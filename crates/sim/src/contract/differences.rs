//! Two recordings, side by side.

use serde_json::Value;

/// Compares what was recorded with what was answered now; each difference names the step, the call and the field.
#[must_use]
pub fn differences(recorded: &Value, now: &Value) -> Vec<String> {
    let (recorded, now) = (steps(recorded), steps(now));
    let mut found = Vec::new();
    for before in recorded {
        match now.iter().find(|step| step["step"] == before["step"]) {
            Some(after) => of_step(before, after, &mut found),
            None => found.push(format!("{}: is not done", before["step"])),
        }
    }
    let is_new = |step: &&Value| !recorded.iter().any(|before| before["step"] == step["step"]);
    found.extend(
        now.iter()
            .filter(is_new)
            .map(|step| format!("{}: is not recorded ({})", step["step"], step["outcome"])),
    );
    found
}

fn steps(recording: &Value) -> &[Value] {
    recording.as_array().map_or(&[], Vec::as_slice)
}

fn of_step(before: &Value, after: &Value, found: &mut Vec<String>) {
    let step = before["step"].as_str().unwrap_or_default();
    let (calls, made) = (steps(&before["calls"]), steps(&after["calls"]));
    for (number, call) in calls.iter().enumerate() {
        let what = format!("{step}: {}", call["call"].as_str().unwrap_or_default());
        match made.get(number) {
            Some(made) => of_value(&what, "", call, made, found),
            None => found.push(format!("{what}: is not made")),
        }
    }
    let more = made.iter().skip(calls.len());
    found.extend(more.map(|call| format!("{step}: {} is made, too", call["call"])));
    for (field, value) in before.as_object().into_iter().flatten().filter(|(field, _)| *field != "calls") {
        of_value(step, field, value, &after[field], found);
    }
}

fn of_value(what: &str, field: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for name in ours.keys().chain(theirs.keys().filter(|name| !ours.contains_key(*name))) {
                let field = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
                of_value(what, &field, &before[name], &after[name], found);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (number, (before, after)) in ours.iter().zip(theirs).enumerate() {
                of_value(what, &format!("{field}[{number}]"), before, after, found);
            }
        }
        _ if before == after => {}
        _ => found.push(format!("{what}: {field}: {before} was recorded, {after} is answered")),
    }
}
