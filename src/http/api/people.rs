//! `/v1/users/…` and `/v1/integrations/…`: what the product's back end needs, role `app`.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::{Extension, Json};
use http::StatusCode;
use http::request::Parts;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::input::{At, Body, Check, Nothing, Query, is_id, maybe_secret};
use super::problem::{Cause, Wrong};
use crate::domain::{Email, UserId};
use crate::pipeline::access::Caller;
use crate::pipeline::console::audit::Actor;
use crate::pipeline::console::people::{AccountAnswer, IntegrationAnswer, Linked, Linking, Reveal, UserAnswer};

const NO_USER: Cause = Cause::NotFound("there is no such user");
const NO_INTEGRATION: Cause = Cause::NotFound("there is no such integration");
/// The longest access token.
const MAX_TOKEN: usize = 4_096;
/// The longest reason.
const MAX_REASON: usize = 200;

/// Our id of a user, in the path.
pub struct UserInPath(UserId);

/// A provider and its id of an integration, in the path.
pub struct SubjectInPath(String, String);

impl<S: Send + Sync> FromRequestParts<S> for UserInPath {
    type Rejection = Cause;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Cause> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let id = path.ok().map(|Path(id)| id).filter(|id| is_id(id));
        id.map(|id| Self(UserId(id))).ok_or_else(|| not_an_id("id"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SubjectInPath {
    type Rejection = Cause;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Cause> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Ok(Path((service, external_id))) = path else { return Err(not_an_id("external_id")) };
        for (name, text) in [("service", &service), ("external_id", &external_id)] {
            if !is_id(text) {
                return Err(not_an_id(name));
            }
        }
        Ok(Self(service, external_id))
    }
}

fn not_an_id(name: &'static str) -> Cause {
    Cause::Malformed(vec![Wrong::parameter(name, "is not 1 to 200 bytes of text without NUL")])
}

/// Whether sealed values are opened, and why.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RevealQuery {
    /// Open the identifiers; needs a reason (403 without), and is written into the audit trail with it.
    #[param(value_type = Option<bool>)]
    reveal: Option<String>,
    /// Why: one line that names no person, such as a case number.
    #[param(max_length = 200, pattern = "^[!-~](?:[ -~]*[!-~])?$")]
    reason: Option<String>,
}

impl RevealQuery {
    fn reveal<'a>(self, actor: &'a Actor) -> Result<Option<Reveal<'a>>, Cause> {
        let mut check = Check::default();
        let reveal =
            check.read(At::Parameter("reveal"), self.reveal.as_deref(), "true or false", |text| text.parse().ok());
        // As the document says it, to the letter; it goes into the log and the trail.
        let line = |text: &str| {
            let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            let fits = printable && (1..=MAX_REASON).contains(&text.len()) && text.trim() == text;
            fits.then(|| text.to_owned())
        };
        let reason =
            check.read(At::Parameter("reason"), self.reason.as_deref(), "1 to 200 printable characters of ASCII", line);
        check.parameters()?;
        if reveal == Some(true) && reason.is_none() {
            return Err(Cause::NoReason);
        }
        Ok(reason.filter(|_| reveal == Some(true)).map(|reason| Reveal { actor, reason }))
    }
}

/// What the product knows of a user.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserBody {
    /// Their address, which is the product's from then on: no provider's replaces it. Without it one who is there keeps theirs.
    #[schema(max_length = 254, pattern = "^[A-Za-z0-9.+_-]{1,64}@[A-Za-z0-9-]{1,60}[.][A-Za-z0-9]{2,60}$")]
    email: Option<String>,
}

/// What the product knows of an integration.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkBody {
    /// Whose it is: our system's own id for the user.
    #[schema(min_length = 1, max_length = 200, pattern = "^[^\\x00]*$")]
    user: String,
    /// The address that they have there.
    #[schema(max_length = 254, pattern = "^[A-Za-z0-9.+_-]{1,64}@[A-Za-z0-9-]{1,60}[.][A-Za-z0-9]{2,60}$")]
    email: Option<String>,
    /// The access token, which is sealed; without it the stored one stays.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 4096)]
    #[serde(default, deserialize_with = "maybe_secret")]
    authorization_id: Option<SecretString>,
}

/// A user's integrations.
#[derive(Serialize, ToSchema)]
pub struct Integrations {
    /// By provider and id.
    integrations: Vec<IntegrationAnswer>,
}

/// A user's accounts.
#[derive(Serialize, ToSchema)]
pub struct Accounts {
    /// By provider and integration.
    accounts: Vec<AccountAnswer>,
}

/// What came of a link.
#[derive(Serialize, ToSchema)]
pub struct LinkAnswer {
    /// As it is now.
    integration: IntegrationAnswer,
    /// Whether anything was written: not, if all of it was so already.
    changed: bool,
    /// How many events that waited for its user were applied.
    applied_events: usize,
}

/// A webhook URL without scheme and host.
#[derive(Serialize, ToSchema)]
pub struct WebhookUrl {
    /// Whose items it binds.
    user: String,
    /// To be put behind the scheme and host that Plaid reaches this finhook at. Whoever has it can say which user an item
    /// belongs to: give it to nobody but Plaid.
    path: String,
}

/// A user.
#[utoipa::path(
    get, path = "/v1/users/{id}", tag = "users",
    params(("id" = String, Path, min_length = 1, max_length = 200, description = "Our system's own id for the user")),
    responses((status = 200, description = "The user", body = UserAnswer))
)]
pub async fn user(
    State(api): State<Arc<Api>>,
    UserInPath(user): UserInPath,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<UserAnswer>, Cause> {
    api.console.user(&user).await?.map(Json).ok_or(NO_USER)
}

/// Create a user, or give one the product's address. The same again changes nothing.
///
/// One who was deleted is not revived.
#[utoipa::path(
    put, path = "/v1/users/{id}", tag = "users", request_body = UserBody,
    params(("id" = String, Path, min_length = 1, max_length = 200, description = "Our system's own id for the user")),
    responses(
        (status = 200, description = "The user, who was there", body = UserAnswer),
        (status = 201, description = "The user, who is new", body = UserAnswer),
        (status = 409, description = "The user was deleted or forgotten", body = super::problem::Problem,
            content_type = "application/problem+json"),
    )
)]
pub async fn put_user(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    UserInPath(user): UserInPath,
    Query(Nothing {}): Query<Nothing>,
    Body(body): Body<UserBody>,
) -> Result<(StatusCode, Json<UserAnswer>), Cause> {
    let mut check = Check::default();
    let email = check.read(At::Pointer("/email"), body.email.as_deref(), "an e-mail address", address);
    check.fields()?;
    let (created, user) = api.console.put_user(&user, email.as_ref(), &Actor::of(&caller)).await?;
    Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, Json(user)))
}

/// A user's integrations.
#[utoipa::path(
    get, path = "/v1/users/{id}/integrations", tag = "users",
    params(("id" = String, Path, min_length = 1, max_length = 200, description = "Our system's own id for the user")),
    responses((status = 200, description = "The integrations that they own", body = Integrations))
)]
pub async fn integrations(
    State(api): State<Arc<Api>>,
    UserInPath(user): UserInPath,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<Integrations>, Cause> {
    let integrations = api.console.integrations(&user).await?.ok_or(NO_USER)?;
    Ok(Json(Integrations { integrations }))
}

/// A user's accounts. With `reveal` and a reason their identifiers too.
#[utoipa::path(
    get, path = "/v1/users/{id}/accounts", tag = "users",
    params(
        ("id" = String, Path, min_length = 1, max_length = 200, description = "Our system's own id for the user"),
        RevealQuery,
    ),
    responses((status = 200, description = "The accounts", body = Accounts))
)]
pub async fn accounts(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    UserInPath(user): UserInPath,
    Query(query): Query<RevealQuery>,
) -> Result<Json<Accounts>, Cause> {
    let actor = Actor::of(&caller);
    let accounts = api.console.accounts(&user, query.reveal(&actor)?).await?.ok_or(NO_USER)?;
    Ok(Json(Accounts { accounts }))
}

/// Mint a webhook URL that binds a user's Plaid items to them. Each call mints another; all of them stay valid.
#[utoipa::path(
    post, path = "/v1/users/{id}/webhook-url", tag = "users",
    params(("id" = String, Path, min_length = 1, max_length = 200, description = "Our system's own id for the user")),
    responses(
        (status = 200, description = "The URL's path", body = WebhookUrl),
        (status = 409, description = "Bound URLs are off: FINHOOK_URL_KEYS is not set", body = super::problem::Problem,
            content_type = "application/problem+json"),
    )
)]
pub async fn webhook_url(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    UserInPath(user): UserInPath,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<WebhookUrl>, Cause> {
    let path = api.console.webhook_path(&user, &Actor::of(&caller)).await?;
    Ok(Json(WebhookUrl { user: user.0, path }))
}

/// An integration. With `reveal` and a reason its access token too.
#[utoipa::path(
    get, path = "/v1/integrations/{service}/{external_id}", tag = "integrations",
    params(
        ("service" = String, Path, min_length = 1, max_length = 200, description = "The provider"),
        ("external_id" = String, Path, min_length = 1, max_length = 200, description = "The provider's id of it"),
        RevealQuery,
    ),
    responses((status = 200, description = "The integration", body = IntegrationAnswer))
)]
pub async fn integration(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    SubjectInPath(service, external_id): SubjectInPath,
    Query(query): Query<RevealQuery>,
) -> Result<Json<IntegrationAnswer>, Cause> {
    let actor = Actor::of(&caller);
    let integration = api.console.integration(&service, &external_id, query.reveal(&actor)?).await?;
    integration.map(Json).ok_or(NO_INTEGRATION)
}

/// Link: say whose an integration is, and hand over its access token. The same again changes nothing.
///
/// Events that waited for the user are applied in the same transaction.
#[utoipa::path(
    put, path = "/v1/integrations/{service}/{external_id}", tag = "integrations", request_body = LinkBody,
    params(
        ("service" = String, Path, min_length = 1, max_length = 200, description = "The provider"),
        ("external_id" = String, Path, min_length = 1, max_length = 200, description = "The provider's id of it"),
    ),
    responses(
        (status = 200, description = "The integration, which was there", body = LinkAnswer),
        (status = 201, description = "The integration, which is new", body = LinkAnswer),
        (status = 409, description = "There is no such user and none may be created, or the user was forgotten",
            body = super::problem::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn put_integration(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    SubjectInPath(service, external_id): SubjectInPath,
    Query(Nothing {}): Query<Nothing>,
    Body(body): Body<LinkBody>,
) -> Result<(StatusCode, Json<LinkAnswer>), Cause> {
    let mut check = Check::default();
    let user = check.id(At::Pointer("/user"), Some(body.user)).unwrap_or_default();
    let email = check.read(At::Pointer("/email"), body.email.as_deref(), "an e-mail address", address);
    let token = body.authorization_id.as_ref().map(|token| secrecy::ExposeSecret::expose_secret(token).len());
    if token.is_some_and(|length| !(1..=MAX_TOKEN).contains(&length)) {
        check.wrong(At::Pointer("/authorization_id"), "is not 1 to 4096 bytes of text");
    }
    check.fields()?;
    let linking = Linking { user: UserId(user), email, authorization_id: body.authorization_id };
    let linked = api.console.link(&service, &external_id, linking, &Actor::of(&caller)).await?;
    let Linked { created, changed, applied_events } = linked;
    let integration = api.console.integration(&service, &external_id, None).await?.ok_or(NO_INTEGRATION)?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(LinkAnswer { integration, changed, applied_events })))
}

fn address(text: &str) -> Option<Email> {
    Email::parse(text, false)
}
