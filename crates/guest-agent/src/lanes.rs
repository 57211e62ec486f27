//! Operands and answers of operations that run at the same time, or with a fault in the middle.

use serde::Deserialize;
use serde::Serialize;

use crate::proto::Op;
use crate::proto::OpError;

/// Operations in order, in a thread of their own beside others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// Name in the answer.
    pub name: String,
    /// What to do, in this order. An operation that fails does not end the lane.
    pub ops: Vec<Op>,
    /// How often; 0: until every lane that has a number is through.
    pub times: u32,
    /// The CPU that it runs on; `None`: any.
    #[serde(default)]
    pub cpu: Option<u32>,
}

/// What came of a [`Lane`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LaneResult {
    /// Of the request.
    pub name: String,
    /// Operations that succeeded.
    pub done: u64,
    /// Operations that failed.
    pub failed: u64,
    /// The first failures, each once.
    pub errors: Vec<OpError>,
    /// The operation that has not come back when the time was over.
    pub busy: Option<Op>,
}

/// What came of [`Op::FailNth`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Injected {
    /// Whether the operation got as far as the allocation that was to fail.
    pub injected: bool,
    /// How the operation ended; `None`: it succeeded.
    pub error: Option<OpError>,
}
