//! Proving who asks: challenges, tokens, basic authentication.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{
    Method, StatusCode, Url,
    header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{
    Access, Known, Login,
    client::{body, message, origin_of},
    config::{Endpoint, is_internal, is_loopback, profile},
    error::{AuthError, RequestError},
};

const MAX_TOKEN: u64 = 256 << 10;
/// Tokens live at least this long (distribution token specification).
const SHORTEST_LIFE: u64 = 60;

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Realm {
    origin: String,
    repository: String,
    scopes: Vec<String>,
}

/// An `Authorization` header and how long to use it.
pub(super) struct Token {
    header: HeaderValue,
    until: Option<Instant>,
    /// What it was given for; `None` when nothing was shown.
    login: Option<Login>,
}

/// One challenge of a `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Access {
    /// The header that worked last time, if it is still good.
    pub(super) async fn authorization(
        &self,
        origin: &str,
        endpoint: &Endpoint,
    ) -> Option<HeaderValue> {
        let realm = Realm {
            origin: origin.to_owned(),
            repository: endpoint.repository.clone(),
            scopes: endpoint.scopes.clone(),
        };
        let tokens = self.tokens.lock().await;
        tokens
            .get(&realm)
            .filter(|token| token.until.is_none_or(|until| Instant::now() < until))
            .map(|token| token.header.clone())
    }

    /// As whom a place has last been asked; `None` when nothing was shown to it.
    pub(super) async fn shown_to(&self, endpoint: &Endpoint) -> Option<Known> {
        let tokens = self.tokens.lock().await;
        let login = endpoint.origins.iter().find_map(|origin| {
            let realm = Realm {
                origin: origin.clone(),
                repository: endpoint.repository.clone(),
                scopes: endpoint.scopes.clone(),
            };
            tokens.get(&realm)?.login.clone()
        })?;
        let host = endpoint.name.clone();
        Some(Known { host, login })
    }

    /// Answers a challenge and keeps the header it yields. `used` is the header that was turned down.
    pub(super) async fn authenticate(
        &self,
        origin: &str,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<(), RequestError> {
        let refused = |source| RequestError::Auth {
            host: endpoint.name.clone(),
            source,
        };
        let realm = Realm {
            origin: origin.to_owned(),
            repository: endpoint.repository.clone(),
            scopes: endpoint.scopes.clone(),
        };
        // Whoever comes second finds the token the first one fetched.
        let mut tokens = self.tokens.lock().await;
        if let Some(token) = tokens.get(&realm)
            && used != Some(&token.header)
        {
            return Ok(());
        }
        tokens.remove(&realm);
        let login = self.credentials.login(&endpoint.name).await;
        let token = match pick(headers).ok_or_else(|| refused(AuthError::Challenge))? {
            Challenge::Basic => {
                let login = login.ok_or_else(|| refused(AuthError::Missing))?;
                let header = basic(&login).ok_or_else(|| refused(AuthError::Challenge))?;
                if used == Some(&header) {
                    return Err(refused(AuthError::Rejected(login.username)));
                }
                Token {
                    header,
                    until: None,
                    login: Some(login),
                }
            }
            Challenge::Bearer {
                realm: address,
                service,
                scope,
            } => {
                let url = token_url(origin, &address)
                    .ok_or_else(|| refused(AuthError::Realm(shown(&address))))?;
                let scopes = if endpoint.scopes.is_empty() {
                    vec![
                        scope.unwrap_or_else(|| format!("repository:{}:pull", endpoint.repository)),
                    ]
                } else {
                    endpoint.scopes.clone()
                };
                let token = self
                    .token(endpoint, url, service.as_deref(), &scopes, login.clone())
                    .await?;
                Token { login, ..token }
            }
        };
        tokens.insert(realm, token);
        Ok(())
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        mut url: Url,
        service: Option<&str>,
        scopes: &[String],
        login: Option<Login>,
    ) -> Result<Token, RequestError> {
        let server = origin_of(&url);
        let asked = url.clone();
        let refused = |source| RequestError::Auth {
            host: endpoint.name.clone(),
            source,
        };
        let failed = |problem: String| {
            refused(AuthError::Token {
                server: server.clone(),
                problem,
            })
        };
        let config = &self.client.shared.config;
        let host = server
            .split_once("://")
            .map_or(server.as_str(), |(_, host)| host);
        let profile = if origin_host(endpoint) == host {
            endpoint.profile.clone()
        } else {
            profile(config, host)
        };
        let pool = self.client.connections(&profile, url.scheme() == "https")?;
        let request = match &login {
            Some(login) if login.username == "<token>" => {
                let mut form = url::form(&[
                    ("grant_type", "refresh_token"),
                    ("client_id", "bodkin"),
                    ("refresh_token", &login.secret),
                    ("scope", &scopes.join(" ")),
                ]);
                if let Some(service) = service {
                    form.push('&');
                    form.push_str(&url::form(&[("service", service)]));
                }
                pool.request(Method::POST, url)
                    .header(
                        reqwest::header::CONTENT_TYPE,
                        "application/x-www-form-urlencoded",
                    )
                    .body(form)
            }
            login => {
                {
                    let mut query = url.query_pairs_mut();
                    if let Some(service) = service {
                        query.append_pair("service", service);
                    }
                    for scope in scopes {
                        query.append_pair("scope", scope);
                    }
                }
                let request = pool.request(Method::GET, url);
                match login.as_ref().and_then(basic) {
                    Some(header) => request.header(reqwest::header::AUTHORIZATION, header),
                    None => request,
                }
            }
        };
        let patience = &config.patience;
        let response = tokio::time::timeout(patience.connect + patience.silence, request.send())
            .await
            .map_err(|_| RequestError::Silence {
                host: server.clone(),
                waited: patience.connect + patience.silence,
            })?
            .map_err(|e| RequestError::unanswered(server.clone(), &asked, e))?;
        let status = response.status();
        if !status.is_success() {
            let text = message(response, patience.silence).await;
            return Err(match (status, login) {
                (StatusCode::UNAUTHORIZED, Some(login)) => {
                    refused(AuthError::Rejected(login.username))
                }
                (StatusCode::UNAUTHORIZED, None) => refused(AuthError::Missing),
                (StatusCode::FORBIDDEN, _) => refused(AuthError::Denied(text)),
                _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    RequestError::Status {
                        host: server,
                        status,
                        message: text,
                        retry_after: None,
                    }
                }
                _ => failed(format!("it answered {status}")),
            });
        }
        let bytes = body(response, &server, MAX_TOKEN, patience.silence).await?;
        parse_token(&bytes).map_err(failed)
    }
}

fn parse_token(bytes: &[u8]) -> Result<Token, String> {
    #[derive(Deserialize)]
    struct Reply {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let reply: Reply =
        serde_json::from_slice(bytes).map_err(|_| "its answer is not JSON".to_owned())?;
    let text = reply
        .token
        .or(reply.access_token)
        .filter(|t| !t.is_empty())
        .ok_or("its answer has no token")?;
    let mut header = HeaderValue::try_from(format!("Bearer {text}"))
        .map_err(|_| "its token has odd characters")?;
    header.set_sensitive(true);
    let life = reply
        .expires_in
        .unwrap_or(SHORTEST_LIFE)
        .clamp(1, 24 * 3600);
    // Renewed a little early: the clock runs while the request travels.
    Ok(Token {
        header,
        until: Some(Instant::now() + Duration::from_millis(life * 900)),
        login: None,
    })
}

fn basic(login: &Login) -> Option<HeaderValue> {
    let text = BASE64_STANDARD.encode(format!("{}:{}", login.username, login.secret));
    let mut header = HeaderValue::try_from(format!("Basic {text}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn origin_host(endpoint: &Endpoint) -> &str {
    endpoint
        .origins
        .first()
        .and_then(|origin| origin.split_once("://"))
        .map_or("", |(_, host)| host)
}

/// The token server, if credentials may go there: over TLS anywhere but into this machine, in clear only to the registry's
/// own host when the registry is spoken to in clear as well.
fn token_url(origin: &str, realm: &str) -> Option<Url> {
    let url = Url::parse(realm).ok()?;
    let registry = Url::parse(origin).ok()?;
    let name = |url: &Url| url.host_str().map(str::to_owned);
    let (own, host) = (name(&registry)?, name(&url)?);
    if !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let same = own == host || (is_loopback(&own) && is_loopback(&host));
    let allowed = match url.scheme() {
        "https" => same || !is_internal(&host),
        "http" => same && registry.scheme() == "http",
        _ => false,
    };
    allowed.then_some(url)
}

fn shown(text: &str) -> String {
    text.split(['?', '#'])
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(100)
        .collect()
}

/// The best challenge: a token, else basic.
fn pick(headers: &HeaderMap) -> Option<Challenge> {
    let mut all: Vec<Challenge> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenges)
        .collect();
    let best = all
        .iter()
        .position(|c| matches!(c, Challenge::Bearer { .. }))
        .unwrap_or(0);
    (best < all.len()).then(|| all.swap_remove(best))
}

/// Reads `Scheme key="value", key=value, Scheme …`.
fn challenges(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.trim_start();
        if let Some(value) = rest.strip_prefix('=') {
            let (value, after) = parameter(value.trim_start());
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else if !word.is_empty() {
            found.push((word.to_ascii_lowercase(), Vec::new()));
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    found
        .into_iter()
        .filter_map(|(scheme, parameters)| {
            let value = |key: &str| {
                parameters
                    .iter()
                    .find(|(k, _)| k == key)
                    .map(|(_, v)| v.clone())
                    .filter(|v| !v.is_empty())
            };
            match scheme.as_str() {
                "basic" => Some(Challenge::Basic),
                "bearer" => Some(Challenge::Bearer {
                    realm: value("realm")?,
                    service: value("service"),
                    scope: value("scope"),
                }),
                _ => None,
            }
        })
        .collect()
}

/// A quoted or bare value and what follows.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

mod url {
    //! Form encoding, through the URL type that is there anyway.

    pub(super) fn form(pairs: &[(&str, &str)]) -> String {
        let mut url = reqwest::Url::parse("http://form.invalid/").expect("a constant that parses");
        url.query_pairs_mut().extend_pairs(pairs);
        url.query().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_in_all_spellings() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        assert_eq!(
            challenges(
                r#"Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push""#
            ),
            [bearer(
                "https://auth.example/token",
                Some("reg"),
                Some("repository:a/b:pull,push")
            )]
        );
        assert_eq!(
            challenges(r#"Basic realm="x, y=\"z\"", bearer realm=https://h/t"#),
            [Challenge::Basic, bearer("https://h/t", None, None)]
        );
        assert_eq!(challenges("Negotiate, Basic"), [Challenge::Basic]);
        assert_eq!(challenges("Bearer service=x"), []);
        assert_eq!(challenges("\"=,,= =\""), []);
        let headers = HeaderMap::from_iter([(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=a, Bearer realm=https://h/t"),
        )]);
        assert_eq!(pick(&headers), Some(bearer("https://h/t", None, None)));
    }

    #[test]
    fn credentials_go_to_safe_places_only() {
        let ok = |origin: &str, realm: &str| token_url(origin, realm).is_some();
        assert!(ok(
            "https://registry-1.docker.io",
            "https://auth.docker.io/token"
        ));
        assert!(ok("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"));
        assert!(ok("http://reg.local:5000", "http://reg.local:5001/token"));
        assert!(
            !ok("https://registry.example", "http://registry.example/token"),
            "clear text"
        );
        assert!(
            !ok("http://reg.local:5000", "http://else.local/token"),
            "clear text to another host"
        );
        assert!(
            !ok("https://registry.example", "https://127.0.0.1/token"),
            "into this machine"
        );
        assert!(
            !ok("https://registry.example", "https://169.254.169.254/latest"),
            "metadata service"
        );
        assert!(!ok("https://registry.example", "file:///etc/passwd"));
        assert!(!ok(
            "https://registry.example",
            "https://user:pw@auth.example/"
        ));
        assert!(!ok("https://registry.example", "/token"));
    }

    #[test]
    fn tokens_and_their_life() {
        let token = parse_token(br#"{"access_token":"x","expires_in":100}"#).unwrap();
        assert_eq!(token.header, "Bearer x");
        assert!(
            token
                .until
                .is_some_and(|until| until > Instant::now() + Duration::from_secs(80))
        );
        assert!(format!("{:?}", token.header).contains("Sensitive"));
        assert_eq!(
            parse_token(b"{}").err().as_deref(),
            Some("its answer has no token")
        );
        assert_eq!(
            parse_token(b"{\"token\":\"a\\nb\"}").err().as_deref(),
            Some("its token has odd characters")
        );
    }
}
