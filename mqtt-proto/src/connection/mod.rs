//! F3: one Network Connection, client or server side.
