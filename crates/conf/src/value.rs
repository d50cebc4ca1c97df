//! The types that options have, and how their text is read.
//!
//! An option that is written without a value has its default, except for text and lists, for which nothing is
//! a value.
//!
//! Sources: oslo.config 10, `types.py`.

use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf, time::Duration};

/// A type that an option can have.
pub trait Value: Sized {
    /// The type's name, for the reference and for errors: "expected ...".
    const KIND: &'static str;

    /// Whether empty text is a value of its own and not the default.
    const EMPTY_IS_VALUE: bool = false;

    /// Reads `text`, which has no blanks around it; `None` if it is no such value.
    fn read(text: &str) -> Option<Self>;

    /// The figure that a declared range bounds.
    fn measure(&self) -> Option<i64> {
        None
    }

    /// The text that a declared choice bounds.
    fn choice(&self) -> Option<&str> {
        None
    }
}

impl Value for String {
    const KIND: &'static str = "text";
    const EMPTY_IS_VALUE: bool = true;

    fn read(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn choice(&self) -> Option<&str> {
        Some(self)
    }
}

impl Value for bool {
    const KIND: &'static str = "true or false";

    fn read(text: &str) -> Option<Self> {
        match text.to_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Some(true),
            "false" | "0" | "off" | "no" => Some(false),
            _ => None,
        }
    }
}

macro_rules! whole_number {
    ($($type:ty),*) => {
        $(impl Value for $type {
            const KIND: &'static str = "whole number";

            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn measure(&self) -> Option<i64> {
                (*self).try_into().ok()
            }
        })*
    };
}

whole_number!(u16, u32, u64, i64);

/// Written in whole seconds.
impl Value for Duration {
    const KIND: &'static str = "seconds";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::from_secs)
    }

    fn measure(&self) -> Option<i64> {
        self.as_secs().try_into().ok()
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "path";

    fn read(text: &str) -> Option<Self> {
        Some(Self::from(text))
    }
}

/// First and last, with a colon between them, as Neutron writes ranges.
impl Value for RangeInclusive<u16> {
    const KIND: &'static str = "range `first:last`";

    fn read(text: &str) -> Option<Self> {
        let (first, last) = text.split_once(':')?;
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some(first..=last)
    }
}

/// Separated by commas; empty elements do not count.
impl Value for Vec<String> {
    const KIND: &'static str = "list, separated by commas";
    const EMPTY_IS_VALUE: bool = true;

    fn read(text: &str) -> Option<Self> {
        Some(elements(text).map(str::to_owned).collect())
    }
}

/// `key:value` pairs, separated by commas; no key is empty or stands twice.
impl Value for BTreeMap<String, String> {
    const KIND: &'static str = "pairs `key:value`, separated by commas";
    const EMPTY_IS_VALUE: bool = true;

    fn read(text: &str) -> Option<Self> {
        let mut pairs = Self::new();
        for element in elements(text) {
            let (key, value) = element.split_once(':')?;
            let is_first = pairs.insert(key.trim().to_owned(), value.trim().to_owned()).is_none();
            if key.trim().is_empty() || !is_first {
                return None;
            }
        }
        Some(pairs)
    }
}

/// `None` when nothing is written.
impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;
    const EMPTY_IS_VALUE: bool = true;

    fn read(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::read(text).map(Some) }
    }

    fn measure(&self) -> Option<i64> {
        self.as_ref().and_then(T::measure)
    }

    fn choice(&self) -> Option<&str> {
        self.as_ref().and_then(T::choice)
    }
}

fn elements(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    fn check<T: Value + PartialEq + Debug>(cases: &[(&str, Option<T>)]) {
        for (text, expect) in cases {
            assert_eq!(&T::read(text), expect, "{text:?} as {}", T::KIND);
        }
    }

    #[test]
    fn reads_each_type() {
        check(&[("On", Some(true)), ("no", Some(false)), ("1", Some(true)), ("maybe", None), ("", None)]);
        check(&[("12", Some(12u32)), ("-1", None), ("0x10", None), ("12s", None), ("99999999999", None)]);
        check(&[("-1", Some(-1i64))]);
        check(&[("15", Some(Duration::from_secs(15))), ("1.5", None)]);
        check(&[("a, b,,\n c", Some(vec!["a".to_owned(), "b".into(), "c".into()])), ("", Some(vec![]))]);
        check(&[
            ("1:4094", Some(1..=4094u16)),
            ("7 : 7", Some(7..=7)),
            ("9:7", None),
            ("7", None),
            ("", None),
        ]);
        check(&[("", Some(None)), ("7", Some(Some(7u16))), ("x", None)]);
        check::<BTreeMap<String, String>>(&[
            ("k:v, l:m:n", Some([("k".to_owned(), "v".to_owned()), ("l".into(), "m:n".into())].into())),
            ("k:v,k", None),
            ("k:v,k:w", None),
            (":v", None),
        ]);
    }
}
