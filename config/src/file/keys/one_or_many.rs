//! A key that takes one value or a list of them.

use std::{borrow::Cow, fmt, marker::PhantomData, ops::Range};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer, value::StrDeserializer},
};

use crate::file::text::{At, FromText, Text};

/// One text or a list of texts.
#[derive(Clone, Debug)]
pub enum OneOrMany<T: FromText> {
    /// One, without brackets.
    One(Text<T>),
    /// Any number.
    Many(Vec<At<Text<T>>>),
}

impl<T: FromText> At<OneOrMany<T>> {
    /// Each value with its place.
    pub(crate) fn each(&self) -> Vec<(&T, Range<usize>)> {
        match &self.value {
            OneOrMany::One(text) => vec![(&text.0, self.span.clone())],
            OneOrMany::Many(texts) => {
                texts.iter().map(|text| (&text.value.0, text.span.clone())).collect()
            }
        }
    }
}

impl<T: FromText> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("one-or-many-{}", T::FORMAT).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Text<T>>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

impl<T: FromText> Serialize for OneOrMany<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(text) => text.serialize(serializer),
            Self::Many(texts) => texts.serialize(serializer),
        }
    }
}

impl<'de, T: FromText> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

struct OneOrManyVisitor<T>(PhantomData<T>);

impl<'de, T: FromText> Visitor<'de> for OneOrManyVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Text::deserialize(StrDeserializer::new(text)).map(OneOrMany::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMany::Many)
    }
}
