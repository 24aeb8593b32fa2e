//! Sums: of ints exact, of doubles in the order in which they are added. Nothing is ever subtracted.

use super::codec::Bytes;
use super::item::Item;
use serde_json::{Number as JsonNumber, Value};

/// A number that is summed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Int(i64),
    Double(f64),
}

impl Number {
    /// # Errors
    /// A message: what is no number, or over the range of ints.
    pub(super) fn of(item: &Item) -> Result<Self, String> {
        match item {
            Item::Int(int) => Ok(Self::Int(*int)),
            Item::Double(double) => Ok(Self::Double(*double)),
            Item::Uint(_) => Err("gets an int that is out of range; use double(x)".to_owned()),
            other => Err(format!("gets {}, a number is needed", other.described())),
        }
    }

    pub(super) fn encode(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Int(int) => {
                bytes.push(0);
                bytes.extend(int.to_le_bytes());
            }
            Self::Double(double) => {
                bytes.push(1);
                bytes.extend(double.to_bits().to_le_bytes());
            }
        }
    }

    pub(super) fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        match bytes.byte()? {
            0 => bytes.int().map(Self::Int),
            1 => bytes.double().map(Self::Double),
            _ => None,
        }
    }

    fn as_double(self) -> f64 {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "as double(x) does")]
            Self::Int(int) => int as f64,
            Self::Double(double) => double,
        }
    }

    /// Bit by bit: 0.0 and -0.0 are two states.
    fn bits(self) -> (u8, u64) {
        match self {
            Self::Int(int) => (0, int.cast_unsigned()),
            Self::Double(double) => (1, double.to_bits()),
        }
    }

    /// The sum; `None` where it is out of range.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        if let (Self::Int(left), Self::Int(right)) = (self, other) {
            return left.checked_add(right).map(Self::Int);
        }
        let sum = self.as_double() + other.as_double();
        sum.is_finite().then_some(Self::Double(sum))
    }

    pub(super) fn to_json(self) -> Value {
        match self {
            Self::Int(int) => Value::from(int),
            Self::Double(double) => JsonNumber::from_f64(double).map_or(Value::Null, Value::Number),
        }
    }

    /// The mean of `count` numbers whose sum this is; null of none.
    pub(super) fn mean(self, count: u64) -> Value {
        if count == 0 {
            return Value::Null;
        }
        #[allow(clippy::cast_precision_loss, reason = "far fewer events than 2^53")]
        let mean = self.as_double() / count as f64;
        JsonNumber::from_f64(mean).map_or(Value::Null, Value::Number)
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Eq for Number {}
