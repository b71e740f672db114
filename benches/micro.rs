//! Single functions of the hot path, each over one kilobyte as a provider sends it: `benches/run --micro [FILTER]`.

#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use finhook::cli::app::{App, Configured};
use finhook::config::Sources;
use finhook::crypto::Place;
use finhook::domain::{DedupKey, Delivery, Timestamp};
use finhook::providers::{self, PROVIDERS, Request};
use finhook::store::Vault;
use finhook::store::fold::{Fold, subject_of};
use http::HeaderMap;
use uuid::Uuid;

fn main() {
    divan::main();
}

const PROVIDER: [&str; 4] = ["plaid", "unit", "synapse", "auth0"];

/// An application in a folder of its own, with what it needs to sign as every provider.
struct Bench {
    app: Configured,
    vault: Arc<Vault>,
    now: Timestamp,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources::of([("FINHOOK_DATA_DIR", folder.path().display().to_string())]);
        let app = App::from_sources(sources).unwrap().configured().unwrap();
        let (vault, now) = (app.vault().unwrap(), app.clock.now());
        Self { app, vault, now, _folder: folder }
    }

    /// A body of a kilobyte and the header fields that prove it.
    fn signed(&self, name: &str) -> (Bytes, HeaderMap) {
        let filler = "x".repeat(700);
        let body = match name {
            "plaid" => format!(
                r#"{{"environment":"production","error":null,"filler":"{filler}","item_id":"item1","webhook_code":"SYNC_UPDATES_AVAILABLE","webhook_type":"TRANSACTIONS"}}"#
            ),
            "unit" => format!(
                r#"{{"data":[{{"id":"1","type":"account.created","attributes":{{"createdAt":"2026-01-21T14:27:43.468Z","description":"{filler}"}},"relationships":{{"account":{{"data":{{"id":"11","type":"depositAccount"}}}},"customer":{{"data":{{"id":"111","type":"individualCustomer"}}}}}}}}]}}"#
            ),
            "synapse" => format!(
                r#"{{"_id":{{"$oid":"5f0c"}},"_rest":{{"_id":"5f0c","user_id":"u1","allowed":"CREDIT-AND-DEBIT","filler":"{filler}"}},"webhook_meta":{{"function":"NODES|POST","log_id":"l1","date":{{"$date":1700000000000}}}}}}"#
            ),
            _ => format!(
                r#"{{"log_id":"l1","data":{{"date":"2026-01-21T14:27:43.468Z","type":"ss","user_id":"auth0|1","user_name":"a@example.com","filler":"{filler}"}}}}"#
            ),
        };
        let body = Bytes::from(body);
        let provider = providers::find(name).unwrap();
        let signer = (provider.signer)(&self.app.setup().unwrap()).unwrap().unwrap();
        let headers = signer.sign(&body, self.now).into_iter().collect();
        (body, headers)
    }

    fn delivery(&self, name: &str) -> Delivery {
        let (body, headers) = self.signed(name);
        let provider = providers::find(name).unwrap();
        let verifier = (provider.verifier)(&self.app.setup().unwrap()).unwrap().unwrap();
        let verified = runtime().block_on(verifier.verify(&request(&headers, &body), self.now)).unwrap();
        verified.into_delivery(Uuid::now_v7(), self.now, body)
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn request<'a>(headers: &'a HeaderMap, body: &'a Bytes) -> Request<'a> {
    Request { headers, body, token: None }
}

#[divan::bench(args = PROVIDER)]
fn verify(bencher: divan::Bencher<'_, '_>, name: &str) {
    let bench = Bench::new();
    let (body, headers) = bench.signed(name);
    let verifier = (providers::find(name).unwrap().verifier)(&bench.app.setup().unwrap()).unwrap().unwrap();
    let runtime = runtime();
    bencher.bench_local(|| runtime.block_on(verifier.verify(&request(&headers, &body), bench.now)).unwrap());
}

#[divan::bench(args = PROVIDER)]
fn events(bencher: divan::Bencher<'_, '_>, name: &str) {
    let bench = Bench::new();
    let delivery = bench.delivery(name);
    let reader = (providers::find(name).unwrap().reader)(bench.app.values()).unwrap();
    bencher.bench_local(|| reader.events(&delivery));
}

#[divan::bench]
fn seal_delivery(bencher: divan::Bencher<'_, '_>) {
    let bench = Bench::new();
    let delivery = bench.delivery("unit");
    bencher.bench_local(|| bench.vault.ring.seal_delivery(&delivery));
}

#[divan::bench]
fn open_delivery(bencher: divan::Bencher<'_, '_>) {
    let bench = Bench::new();
    let message = bench.vault.ring.seal_delivery(&bench.delivery("unit")).message.bytes();
    let find = |name: &str| PROVIDERS.iter().find(|provider| provider.name.as_str() == name).map(|found| found.name);
    bencher.bench_local(|| bench.vault.ring.open_delivery(&message, &find).unwrap());
}

#[divan::bench]
fn seal_payload(bencher: divan::Bencher<'_, '_>) {
    let bench = Bench::new();
    let (delivery, key) = (bench.delivery("unit"), DedupKey::from_stored(b"1000000001".to_vec()));
    bencher.bench_local(|| bench.vault.ring.seal_payload(&key, &delivery));
}

#[divan::bench]
fn seal_column(bencher: divan::Bencher<'_, '_>) {
    let bench = Bench::new();
    let place = Place { table: "account", column: "external_id", key: &[b"unit", b"2000000001", &[7; 32]] };
    bencher.bench_local(|| bench.vault.ring.seal_column(&place, "3000000001"));
}

#[divan::bench]
fn blind_index(bencher: divan::Bencher<'_, '_>) {
    let bench = Bench::new();
    bencher.bench_local(|| bench.vault.index.of("account.external_id", "unit", "3000000001"));
}

/// A thousand events of a hundred customers into rows.
#[divan::bench]
fn fold_a_thousand(bencher: divan::Bencher<'_, '_>) {
    let bench = Bench::new();
    let reader = (providers::find("unit").unwrap().reader)(bench.app.values()).unwrap();
    let (body, _) = bench.signed("unit");
    let text = String::from_utf8(body.to_vec()).unwrap();
    let template = bench.delivery("unit");
    let all: Vec<_> = (0..1_000)
        .flat_map(|n| {
            let text = text.replace("\"111\"", &format!("\"{}\"", n / 10)).replace("\"11\"", &format!("\"{n}\""));
            let text = text.replace("\"id\":\"1\"", &format!("\"id\":\"e{n}\""));
            let text =
                text.replace("\"createdAt\"", &format!("\"tags\":{{\"userId\":\"u_{}\"}},\"createdAt\"", n / 10));
            reader.events(&template.narrowed(Bytes::from(text), template.scope, None))
        })
        .collect();
    let mut subjects: Vec<_> = all.iter().filter_map(subject_of).collect();
    subjects.sort();
    subjects.dedup();
    assert_eq!((all.len(), subjects.len()), (1_000, 100));
    bencher.bench_local(|| {
        let mut fold = Fold::new(&subjects, Vec::new(), true);
        all.iter().for_each(|event| fold.claim(event));
        all.iter().for_each(|event| fold.apply(event));
        let users = fold.missing_users();
        fold.know_users(users);
        fold.resolve_owners();
        let written = fold.integrations(&bench.vault);
        fold.fold_accounts(Vec::new(), &bench.vault);
        (written.0.len(), fold.account_rows(&bench.vault).0.len())
    });
}
