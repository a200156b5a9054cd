//! Why a NIC was not plugged.

use crate::cni::Error;
use crate::vm::error::Error as VmError;

use super::errors;

/// Why a NIC was not plugged, and whether that is final.
pub struct Failure {
    /// What to report.
    pub error: Error,
    /// True if the VM has the NIC or may still get it. Its share and its record must stay then.
    pub open: bool,
}

impl Failure {
    /// Returns a failure after which the VM has the NIC, or may still get it.
    pub fn open(error: Error) -> Self {
        Self { error, open: true }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, open: false }
    }
}

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        Self { error: errors::vm(&error), open: error.is_open() }
    }
}
