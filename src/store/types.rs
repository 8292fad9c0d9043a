//! How the model's ids stand in SQL: the only place where they meet SQLite.

use crate::model::ids::{
    AgentName, AgentSessionId, ItemId, MailId, MessageKey, OutboxId, PersonId, ProjectName,
    RequestId, RoomKey, SessionKey, TimerId, TurnId,
};
use rusqlite::Result;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// Stores newtypes as the value they wrap.
macro_rules! as_inner {
    ($inner:ty: $($name:ident),+) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
                self.0.to_sql()
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                <$inner>::column_result(value).map(Self)
            }
        }
    )+};
}

as_inner!(i64: ItemId, AgentSessionId, TurnId, OutboxId, MailId, TimerId, RequestId);
as_inner!(String: ProjectName, AgentName, PersonId, RoomKey, MessageKey);

impl ToSql for SessionKey {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.to_string()))
    }
}

impl FromSql for SessionKey {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        String::column_result(value)?
            .parse()
            .map_err(|never: std::convert::Infallible| FromSqlError::Other(Box::new(never)))
    }
}

/// A value stored as JSON text.
///
/// A row whose text does not fit the type any more is an error with the column's text, never a
/// silent default.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: serde::Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        serde_json::to_string(&self.0)
            .map(ToSqlOutput::from)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
    }
}

impl<T: serde::de::DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?)
            .map(Json)
            .map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}
