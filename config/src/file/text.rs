//! The leaves of the file: values with the place they were written at, and texts with a format.
//!
//! [`At`] remembers where a value stands. [`Text`] is a string that [`FromText`] reads; its format's
//! name is in the JSON schema, by which the check of the tree finds the same reader again.

use std::{borrow::Cow, ops::Range};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::name::NameError;

/// A value and where it was written; an empty place for a default.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Bytes of its file.
    pub span: Range<usize>,
}

impl<T> At<T> {
    /// A value that nobody wrote.
    pub(super) fn default(value: T) -> Self {
        Self { value, span: 0..0 }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        Ok(Self { span: spanned.span(), value: spanned.into_inner() })
    }
}

impl<T: Serialize> Serialize for At<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// What is read from a string of a certain format.
pub trait FromText: Sized {
    /// The format's name, as `format` in the JSON schema.
    const FORMAT: &'static str;
    /// What the format is, for the reference.
    const MEANING: &'static str;
    /// Whether what is told of a mistake must not show the text.
    const IS_SECRET: bool = false;

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, and after `: ` what to write instead; without the text itself, which may
    /// come from the environment.
    fn from_text(text: &str) -> Result<Self, NameError>;

    /// The text that is read as this.
    fn to_text(&self) -> String;
}

/// A string in the file that means a `T`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<T>(pub T);

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        T::from_text(&text).map(Self).map_err(D::Error::custom)
    }
}

impl<T: FromText> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_text())
    }
}

impl<T: FromText> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        T::FORMAT.into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": T::FORMAT })
    }
}
