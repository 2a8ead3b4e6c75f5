//! Types out of CBOR with one copy of serde_cbor's parser for all of them. It is generic over what it fills in: dozens of types
//! are in checkpoints, and a parser for each was a twenty-fifth of the binary.
//!
//! The parser fills in an [`Item`] at a time, behind a call that is not generic, and types are made of items, which takes
//! little code. Nothing is kept between: the elements of a list are parsed while its type asks for them. It costs more than
//! twice the instructions, so it is for what is read at a start or once in a chunk, and not for a chunk's columns.
//!
//! Invariants: what serde_cbor wrote is read into what serde_cbor by itself would read it into; depth and lengths are limited by
//! its parser. With what it does not write this is freer (an undefined or tagged null is a `None` too) or stricter (an enum as an
//! array, which versions before 0.11 wrote, is refused).

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_cbor::Error;

/// One type, out of all of the bytes.
pub(super) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut made = None;
    let mut parser = serde_cbor::Deserializer::from_slice(bytes);
    parse(&mut parser, &mut |item| {
        made = Some(T::deserialize(item)?);
        Ok(())
    })?;
    made.ok_or_else(nothing)
}

/// The one place where the parser is made code for.
fn parse<'de>(
    parser: &mut serde_cbor::Deserializer<serde_cbor::de::SliceRead<'de>>,
    take: Take<'_, 'de>,
) -> Result<(), Error> {
    Sink(take).deserialize(&mut *parser)?;
    parser.end()
}

/// What an item is handed to, once.
type Take<'t, 'de> = &'t mut dyn FnMut(Item<'_, 'de>) -> Result<(), Error>;

/// What the parser found.
enum Item<'i, 'de> {
    Null,
    Flag(bool),
    Unsigned(u64),
    Signed(i64),
    /// A negative number below those of 64 bits.
    Wide(i128),
    Float(f64),
    Text(&'i str),
    Bytes(&'i [u8]),
    List(&'i mut dyn Items<'de>),
    Map(&'i mut dyn Items<'de>),
}

/// What a list or a map has in it, in order.
trait Items<'de> {
    /// How many are left, where that was said.
    fn left(&self) -> Option<usize>;
    /// The next element or key, or false at the end.
    fn next(&mut self, take: Take<'_, 'de>) -> Result<bool, Error>;
    /// What belongs to that key.
    fn value(&mut self, take: Take<'_, 'de>) -> Result<(), Error>;
}

struct List<A>(A);

impl<'de, A: SeqAccess<'de>> Items<'de> for List<A> {
    fn left(&self) -> Option<usize> {
        self.0.size_hint()
    }

    fn next(&mut self, take: Take<'_, 'de>) -> Result<bool, Error> {
        self.0.next_element_seed(Sink(take)).map(|taken| taken.is_some()).map_err(de::Error::custom)
    }

    fn value(&mut self, _: Take<'_, 'de>) -> Result<(), Error> {
        Err(nothing())
    }
}

struct Map<A>(A);

impl<'de, A: de::MapAccess<'de>> Items<'de> for Map<A> {
    fn left(&self) -> Option<usize> {
        self.0.size_hint()
    }

    fn next(&mut self, take: Take<'_, 'de>) -> Result<bool, Error> {
        self.0.next_key_seed(Sink(take)).map(|taken| taken.is_some()).map_err(de::Error::custom)
    }

    fn value(&mut self, take: Take<'_, 'de>) -> Result<(), Error> {
        self.0.next_value_seed(Sink(take)).map_err(de::Error::custom)
    }
}

/// Never seen: an item is handed over or there is an error.
fn nothing() -> Error {
    de::Error::custom("nothing where a value was expected")
}

/// What the parser fills in: it hands the item on.
struct Sink<'t, 'de>(Take<'t, 'de>);

impl<'de> DeserializeSeed<'de> for Sink<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
        parser.deserialize_any(self)
    }
}

impl<'de> Sink<'_, 'de> {
    fn item<E: de::Error>(self, item: Item<'_, 'de>) -> Result<(), E> {
        (self.0)(item).map_err(E::custom)
    }
}

impl<'de> Visitor<'de> for Sink<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any CBOR")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.item(Item::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.item(Item::Flag(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.item(Item::Unsigned(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.item(Item::Signed(value))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<(), E> {
        self.item(Item::Wide(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.item(Item::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.item(Item::Text(value))
    }

    fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<(), E> {
        self.item(Item::Bytes(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.item(Item::List(&mut List(list)))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.item(Item::Map(&mut Map(map)))
    }
}

impl<'de> Deserializer<'de> for Item<'_, 'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Null => visitor.visit_unit(),
            Item::Flag(value) => visitor.visit_bool(value),
            Item::Unsigned(value) => visitor.visit_u64(value),
            Item::Signed(value) => visitor.visit_i64(value),
            Item::Wide(value) => visitor.visit_i128(value),
            Item::Float(value) => visitor.visit_f64(value),
            Item::Text(value) => visitor.visit_str(value),
            Item::Bytes(value) => visitor.visit_bytes(value),
            Item::List(items) => visitor.visit_seq(Rest(items)),
            Item::Map(items) => visitor.visit_map(Rest(items)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if matches!(self, Item::Null) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// What a list or a map has left.
struct Rest<'i, 'de>(&'i mut dyn Items<'de>);

impl<'de> Rest<'_, 'de> {
    fn next<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let (mut seed, mut made) = (Some(seed), None);
        self.0.next(&mut |item| fill(&mut seed, &mut made, item))?;
        Ok(made)
    }

    fn value<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let (mut seed, mut made) = (Some(seed), None);
        self.0.value(&mut |item| fill(&mut seed, &mut made, item))?;
        made.ok_or_else(nothing)
    }
}

fn fill<'de, T: DeserializeSeed<'de>>(
    seed: &mut Option<T>,
    made: &mut Option<T::Value>,
    item: Item<'_, 'de>,
) -> Result<(), Error> {
    *made = Some(seed.take().ok_or_else(nothing)?.deserialize(item)?);
    Ok(())
}

impl<'de> SeqAccess<'de> for Rest<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.next(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.left()
    }
}

impl<'de> de::MapAccess<'de> for Rest<'_, 'de> {
    type Error = Error;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.next(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        self.value(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.left()
    }
}

/// A variant without content is its number or name; one with content is a map from that to it.
impl<'i, 'de> de::EnumAccess<'de> for Item<'i, 'de> {
    type Error = Error;
    type Variant = Content<'i, 'de>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Content<'i, 'de>), Error> {
        match self {
            Item::Map(items) => {
                let mut rest = Rest(items);
                Ok((rest.next(seed)?.ok_or_else(nothing)?, Content(Some(rest))))
            }
            name => Ok((seed.deserialize(name)?, Content(None))),
        }
    }
}

struct Content<'i, 'de>(Option<Rest<'i, 'de>>);

impl<'de> de::VariantAccess<'de> for Content<'_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.0.map_or(Ok(()), |mut rest| rest.value(std::marker::PhantomData))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.0.ok_or_else(nothing)?.value(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.0.ok_or_else(nothing)?.value(Any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.0.ok_or_else(nothing)?.value(Any(visitor))
    }
}

/// A visitor of whatever there is.
struct Any<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Any<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, item: D) -> Result<V::Value, D::Error> {
        item.deserialize_any(self.0)
    }
}
