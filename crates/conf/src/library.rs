//! Generated files, read by us and by the real oslo.config, for every option there is.
//!
//! The library is Python's, so the test is not among those that run everywhere: it needs the variable
//! `KURYR_TEST_OSLO_PYTHON`, a Python that has it (that of the lab: `lab/lab python`), and fails without.
//!
//! What the library takes we take alike. What it refuses we refuse, but for what is milder here:
//!
//! - an option that is written without a value has its default, also where the library wants one; a path, which is text to
//!   the library, too;
//! - empty elements of a list do not count, and pairs may have an empty one at the end;
//! - blanks and line breaks around a value do not count, whatever its type;
//! - a dot behind a name is not part of the name.
//!
//! A range is text to the library, so there it is the other way round: what we take is the same there.
//!
//! Names within values stand for options with text: of other types the library puts in what Python prints of them.

use std::{
    collections::BTreeMap,
    env,
    io::Write,
    ops::RangeInclusive,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value as Json, json};

use crate::{
    Conf, Opt,
    options::{self, Declared},
    value::Value,
};

/// So many times files are compared: enough for each option to have had some value that is taken.
const CASES: usize = 2000;

/// Reads files as a program of OpenStack would, and prints for each an object of values by `section.option`, `null` for a value
/// that is refused; `null` for a file that is.
const PROGRAM: &str = r#"
import json, os, sys, tempfile
from oslo_config import cfg, types

KINDS = {"text": types.String, "path": types.String, "range `first:last`": types.String, "true or false": types.Boolean,
         "list, separated by commas": types.List, "pairs `key:value`, separated by commas": types.Dict}


def kind(option):
    if option["kind"] in ("whole number", "seconds"):
        least, greatest = option["range"] or (0 if option["kind"] == "seconds" else None, None)
        return types.Integer(min=least, max=greatest)
    if option["choices"]:
        return types.String(choices=option["choices"])
    return KINDS[option["kind"]]()


def read(paths, options):
    conf = cfg.ConfigOpts()
    for option in options:
        group = None if option["section"] == "DEFAULT" else option["section"]
        conf.register_opt(cfg.Opt(option["option"], type=kind(option), default=option["default"]), group=group)
    try:
        conf(args=[word for path in paths for word in ("--config-file", path)], default_config_files=[])
    except cfg.ConfigFileParseError:
        return None
    except cfg.ConfigFileValueError:
        pass
    found = {}
    for option in options:
        section = conf if option["section"] == "DEFAULT" else conf[option["section"]]
        try:
            found[option["section"] + "." + option["option"]] = {"is": section[option["option"]]}
        except (cfg.ConfigFileValueError, cfg.TemplateSubstitutionError, cfg.NoSuchOptError, RecursionError, ValueError):
            found[option["section"] + "." + option["option"]] = None
    return found


asked = json.load(sys.stdin)
answers = []
for texts in asked["cases"]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{number}.conf") for number in range(len(texts))]
        for path, text in zip(paths, texts):
            with open(path, "w", newline="") as file:
                file.write(text)
        answers.append(read(paths, asked["options"]))
json.dump(answers, sys.stdout)
"#;

const NUMBERS: &[&str] =
    &["0", "1", "5", "30", "007", "+3", "-1", "4095", "65536", "99999999999", "1.5", "0x10", "1 2", "many"];
const BOOLEANS: &[&str] = &["true", "False", "YES", "no", "on", "0", "1", "maybe", "t", "2"];
const TEXTS: &[&str] = &[
    "br-int",
    "a b",
    "pa#ss;word",
    "\"quoted\"",
    "'x'",
    "\"half",
    "it's",
    "a=b:c",
    "$$5",
    "\\$x",
    "%(x)s",
    "a,b",
    "$node_name",
    "${cni_daemon.node_name}/x",
    "$cni_daemon.node_name",
    "$cni_daemon.node_name.",
    "$nothing",
    "${open",
    "$ 1",
    "${kubernetes.kubeconfig}$kubernetes.kubeconfig",
    "text",
    "json",
    "node",
    "noop",
    "nested-vlan",
    "é",
];
const LISTS: &[&str] =
    &["a,b", "a, b ,c", "a", "a,", "a,,", "[a,b]", "\"a,b\"", "'a','b'", "10.0.0.0/8, !10.1.0.0/16"];
const PAIRS: &[&str] = &["k:v", "k:v,l:m", "k : v , l:m:n", "k:", "k", "k:v,k:w", ":v", "k:v;l:m", "\"k:v\""];
const RANGES: &[&str] = &["1:4094", "7:7"];

fn values(declared: &Declared) -> Vec<&'static str> {
    let of_kind = match declared.kind {
        "whole number" | "seconds" => NUMBERS,
        "true or false" => BOOLEANS,
        <Vec<String> as Value>::KIND => LISTS,
        <BTreeMap<String, String> as Value>::KIND => PAIRS,
        // Text for the library: what is no range we refuse.
        <RangeInclusive<u16> as Value>::KIND => RANGES,
        _ => TEXTS,
    };
    let mut values: Vec<_> = of_kind.iter().chain(&[""]).copied().collect();
    // As many as of the others, so that they have their turn.
    while values.len() < 2 * of_kind.len() && !declared.choices.is_empty() {
        values.extend(declared.choices);
    }
    values
}

/// An option and what may follow on it.
fn assignment(declared: &'static Declared) -> impl Strategy<Value = String> {
    let signs = prop::sample::select(vec!["=", " = ", ":", " : ", "=  ", "\t=\t"]);
    let after = prop::sample::select(vec![
        "",
        "",
        "",
        "",
        "",
        "\n",
        "\n\n",
        "\n# c = d",
        "\n; c",
        "   ",
        "\n  ",
        "\n  more",
        "\n\tmore, still",
    ]);
    let name = prop_oneof![9 => Just(declared.option), 1 => Just("no_such_option")];
    (name, signs, prop::sample::select(values(declared)), after)
        .prop_map(|(name, sign, value, after)| format!("{name}{sign}{value}{after}\n"))
}

/// One of these, with its weight.
fn weighted<T: Clone + std::fmt::Debug + 'static>(values: Vec<(u32, T)>) -> impl Strategy<Value = T> {
    let values = values.into_iter().map(|(weight, value)| (weight, Just(value)));
    prop::strategy::Union::new_weighted(values.collect())
}

fn file() -> impl Strategy<Value = String> {
    let section = prop::sample::select(options::SECTIONS.to_vec()).prop_flat_map(|section| {
        let name = section.name;
        let heads = weighted(vec![
            (20, format!("[{name}]\n")),
            (3, format!("[{name}]  \n\n")),
            (3, format!("[{}]\n", name.to_uppercase())),
            (1, format!("# [{name}]\n")),
            (1, format!(" [{name}]\n")),
            (1, "[nobodys]\n".to_owned()),
        ]);
        let lines = prop::sample::select(section.options.to_vec()).prop_flat_map(assignment);
        (heads, prop::collection::vec(lines, 0..6)).prop_map(|(head, lines)| head + &lines.concat())
    });
    let broken = ["[open\n", "[]\n", "nothing\n", "= 5\n", " lost\n", "\n lost\n"];
    let broken = weighted(broken.iter().map(|broken| (1, *broken)).chain([(30, "")]).collect());
    (prop::collection::vec(section, 0..5), broken, any::<bool>()).prop_map(|(sections, broken, dos)| {
        let text = sections.concat() + broken;
        if dos { text.replace('\n', "\r\n") } else { text }
    })
}

/// The value by the library's measure: what it is in JSON; `Err` if it is refused.
fn ours(conf: &Conf, declared: &'static Declared) -> Result<Json, ()> {
    fn get<T: Value>(conf: &Conf, declared: &'static Declared, tell: impl Fn(T) -> Json) -> Result<Json, ()> {
        conf.get(&Opt::<T>::of(*declared)).map(tell).map_err(drop)
    }
    match declared.kind {
        "whole number" if declared.default.is_empty() => {
            get(conf, declared, |number: Option<i64>| json!(number))
        }
        "whole number" => get(conf, declared, |number: i64| json!(number)),
        "seconds" => get(conf, declared, |time: Duration| json!(time.as_secs())),
        "true or false" => get(conf, declared, |is: bool| json!(is)),
        <Vec<String> as Value>::KIND => get(conf, declared, |list: Vec<String>| json!(list)),
        <BTreeMap<String, String> as Value>::KIND => {
            get(conf, declared, |pairs: BTreeMap<String, String>| json!(pairs))
        }
        <RangeInclusive<u16> as Value>::KIND => get(conf, declared, |range: RangeInclusive<u16>| {
            json!(format!("{}:{}", range.start(), range.end()))
        }),
        <PathBuf as Value>::KIND => get(conf, declared, |path: PathBuf| json!(path)),
        <String as Value>::KIND if declared.default.is_empty() => {
            get(conf, declared, |text: Option<String>| json!(text.unwrap_or_default()))
        }
        <String as Value>::KIND => get(conf, declared, |text: String| json!(text)),
        other => panic!("the type `{other}` is not compared"),
    }
}

/// What the library says, without what is milder here.
fn theirs(answer: &Json, declared: &Declared) -> Result<Json, ()> {
    let is_text = declared.kind == <String as Value>::KIND;
    Ok(match answer.get("is").ok_or(())? {
        // Nothing is written: the library has no value then, we have the default.
        Json::Null => default(declared),
        Json::String(text) if text.trim().is_empty() && !is_text => default(declared),
        Json::Array(list) => list.iter().filter(|element| *element != "").cloned().collect(),
        Json::String(text) => json!(text.trim()),
        other => other.clone(),
    })
}

/// The default as the library would tell it.
fn default(declared: &Declared) -> Json {
    match (declared.default, declared.kind) {
        ("", <Vec<String> as Value>::KIND) => json!([]),
        ("", <BTreeMap<String, String> as Value>::KIND) => json!({}),
        ("", <String as Value>::KIND | <PathBuf as Value>::KIND) => json!(""),
        ("", _) => json!(null),
        (default, "whole number" | "seconds") => json!(default.parse::<i64>().ok()),
        (default, _) => json!(default),
    }
}

/// What is written of an option.
fn text<'a>(conf: &'a Conf, declared: &Declared) -> Option<&'a str> {
    let mut written = conf.written();
    let found =
        written.find(|(section, option, _)| *section == declared.section && *option == declared.option);
    found.map(|(_, _, written)| written.text.as_str())
}

/// Whether a value that the library refuses may be taken.
fn is_milder(text: &str, declared: &Declared) -> bool {
    let open_end = declared.kind == <BTreeMap<String, String> as Value>::KIND && text.ends_with(',');
    text.trim().is_empty() || text.trim() != text || text.contains("node_name.") || open_end
}

fn ask_the_library(cases: &[Vec<String>]) -> Vec<Json> {
    let python = env::var_os("KURYR_TEST_OSLO_PYTHON");
    let python = python
        .expect("KURYR_TEST_OSLO_PYTHON names a Python with oslo.config, such as that of `lab/lab python`");
    let options: Vec<Json> = options::all()
        .map(|declared| {
            let default = Some(declared.default).filter(|default| !default.is_empty());
            json!({"section": declared.section, "option": declared.option, "kind": declared.kind, "default": default,
                   "range": declared.range, "choices": declared.choices})
        })
        .collect();
    let asked = serde_json::to_vec(&json!({"cases": cases, "options": options})).unwrap();
    let mut child = Command::new(python)
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&asked));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
#[ignore = "needs oslo.config: KURYR_TEST_OSLO_PYTHON"]
fn generated_files_are_read_as_the_library_reads_them() {
    let mut runner = TestRunner::deterministic();
    let files = prop::collection::vec(file(), 1..3);
    let cases: Vec<Vec<String>> =
        (0..CASES).map(|_| files.new_tree(&mut runner).unwrap().current()).collect();
    let answers = ask_the_library(&cases);
    assert_eq!(answers.len(), CASES);
    let (mut read, mut refused, mut taken) = (0, 0, BTreeMap::<String, usize>::new());
    for (texts, answer) in cases.iter().zip(&answers) {
        let named: Vec<(&str, &str)> = texts.iter().map(|text| ("file", text.as_str())).collect();
        let conf = Conf::from_texts(&named);
        assert_eq!(conf.is_err(), answer.is_null(), "{conf:?} of {texts:#?}");
        let Ok(conf) = conf else {
            refused += 1;
            continue;
        };
        for declared in options::all() {
            let theirs = theirs(&answer[format!("{}.{}", declared.section, declared.option)], declared);
            let ours = ours(&conf, declared);
            let text = text(&conf, declared);
            if declared.kind == <RangeInclusive<u16> as Value>::KIND && ours.is_err() {
                continue;
            }
            // Names in a value may have stood for nothing.
            let is_nothing = ours == Ok(json!("")) || text.is_some_and(|text| is_milder(text, declared));
            if theirs.is_err() && ours.is_ok() && is_nothing {
                continue;
            }
            assert_eq!(ours, theirs, "{} of {texts:#?}", declared.name());
            *taken.entry(declared.name()).or_default() += usize::from(ours.is_ok() && text.is_some());
        }
        read += 1;
    }
    // It is about something: most files are files, some are none, and each option was written and taken.
    assert!(read > CASES / 2 && refused > CASES / 50, "{read} files were read and {refused} refused");
    let idle: Vec<&String> = taken.iter().filter(|(_, times)| **times == 0).map(|(name, _)| name).collect();
    assert!(idle.is_empty(), "never written with a value that was taken: {idle:?}");
}
