//! One finhook as it is deployed: its settings, its receivers and workers as real processes, and who watches that none
//! of them ends by itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use finhook::config::{Sources, Values};
use finhook::crypto::{BlindIndex, KeyRing, UrlKeys, fresh_key};
use finhook::domain::WallClock;
use finhook::providers::plaid_jws::DevelopmentKey;
use finhook::providers::{PROVIDERS, Setup, Signer};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::machine::{Machine, Process, free_port, tail};

/// Where Debian has libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Names of variables with their values.
pub type Environment = Vec<(String, String)>;

/// Who signs for each provider.
pub type Signers = HashMap<&'static str, Box<dyn Signer>>;

/// Which half a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The receiver.
    Receiver,
    /// The worker.
    Worker,
    /// Both.
    Both,
}

/// Keys, tokens and addresses of one deployment.
pub struct Secrets {
    /// Two entries of the ring.
    pub ring: [String; 2],
    index: SecretString,
    url: SecretString,
    plaid: SecretString,
    environment: Environment,
}

impl Secrets {
    /// Fresh ones. Plaid's public key goes to a file, as operators have it.
    pub fn fresh(machine: &Machine, name: &str) -> anyhow::Result<Self> {
        let plaid = DevelopmentKey::generate().context("make a key to sign as Plaid")?;
        let pkcs8 = STANDARD.decode(plaid.expose_secret())?;
        // The end of a PKCS#8 key with its public half is that half: 0x04, x, y.
        let point = pkcs8.get(pkcs8.len().saturating_sub(65)..).context("a key has 65 bytes of public half")?;
        let kid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, point);
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
        let jwk = serde_json::json!({"alg": "ES256", "crv": "P-256", "kid": kid, "kty": "EC", "use": "sig",
            "x": part(1..33), "y": part(33..65)});
        let jwks = machine.folder.join(format!("{name}-jwks.json"));
        machine.file(&jwks, &jwk.to_string())?;
        let token = || fresh_key().expose_secret().to_owned();
        let (index, url) = (fresh_key(), fresh_key());
        let mut environment: Environment = [
            ("FINHOOK_PLAID_JWKS_FILE", jwks.display().to_string()),
            ("FINHOOK_UNIT_TOKENS", token()),
            ("FINHOOK_SYNAPSE_CLIENT_ID", "client_id_chaos".to_owned()),
            ("FINHOOK_SYNAPSE_CLIENT_SECRETS", token()),
            ("FINHOOK_AUTH0_TOKENS", token()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        environment.push(("FINHOOK_INDEX_KEY".to_owned(), index.expose_secret().to_owned()));
        environment.push(("FINHOOK_URL_KEYS".to_owned(), url.expose_secret().to_owned()));
        let ring = [1, 2].map(|id| KeyRing::generate_entry(id).expose_secret().to_owned());
        Ok(Self { ring, index, url, plaid, environment })
    }

    /// finhook's own signers, set up with these.
    pub fn signers(&self) -> anyhow::Result<(Signers, UrlKeys)> {
        let mut environment = self.environment.clone();
        environment.push(("FINHOOK_PLAID_DEVELOPMENT_KEY".to_owned(), self.plaid.expose_secret().to_owned()));
        let declared: Vec<_> = PROVIDERS.iter().map(|provider| provider.variables).collect();
        let values = Values::load(&Sources::of(environment), &declared).map_err(|errors| anyhow!("{errors:?}"))?;
        let setup = Setup { values: &values, url_keys: None, clock: WallClock::system() };
        let mut signers = HashMap::new();
        for provider in PROVIDERS {
            let signer = (provider.signer)(&setup).map_err(|error| anyhow!("{error}"))?;
            signers.insert(provider.name.as_str(), signer.with_context(|| format!("{} cannot sign", provider.name))?);
        }
        let url_keys = UrlKeys::parse(std::slice::from_ref(&self.url)).map_err(|error| anyhow!("{error}"))?;
        Ok((signers, url_keys.context("a key was given")?))
    }

    /// What finds sealed account ids.
    pub fn index(&self) -> anyhow::Result<BlindIndex> {
        BlindIndex::parse(&self.index).map_err(|error| anyhow!("{error}"))
    }

    /// The ring as a setting: both keys, `first` (0 or 1) first.
    pub fn both(&self, first: usize) -> String {
        let [one, two] = &self.ring;
        if first == 0 { format!("{one},{two}") } else { format!("{two},{one}") }
    }
}

/// One process of finhook, running or not.
pub struct Slot {
    name: String,
    binary: PathBuf,
    half: Half,
    /// Its own settings, which win over the deployment's.
    pub own: Environment,
    /// Where it takes webhooks.
    pub http: u16,
    ops: u16,
    clock: Option<PathBuf>,
    process: Option<Process>,
    log: PathBuf,
}

/// All processes of one finhook.
pub struct Deployment {
    machine: Rc<Machine>,
    name: String,
    binary: PathBuf,
    shared: Environment,
    slots: Rc<RefCell<Vec<Slot>>>,
    /// Processes that ended without being told to.
    pub ended: Rc<RefCell<Vec<String>>>,
    watched: Cell<bool>,
}

impl Deployment {
    /// Nothing runs yet.
    pub fn new(machine: &Rc<Machine>, name: &str, binary: &Path, secrets: &Secrets, more: Environment) -> Self {
        let mut shared = secrets.environment.clone();
        shared.push(("FINHOOK_KEYS".to_owned(), secrets.ring.first().cloned().unwrap_or_default()));
        shared.push(("FINHOOK_LOG_FORMAT".to_owned(), "text".to_owned()));
        shared.extend(more);
        let (slots, ended) = (Rc::default(), Rc::default());
        let (machine, binary) = (machine.clone(), binary.to_owned());
        Self { machine, name: name.to_owned(), binary, shared, slots, ended, watched: Cell::new(false) }
    }

    /// One more process, not started yet; its number.
    pub fn add(&self, half: Half, own: Environment, fake_clock: bool) -> anyhow::Result<usize> {
        let mut slots = self.slots.borrow_mut();
        let number = slots.len();
        let name = format!("{}-{}{number}", self.name, format!("{half:?}").to_lowercase());
        let clock = fake_clock.then(|| self.machine.folder.join(format!("{name}.clock")));
        if let Some(clock) = &clock {
            if !Path::new(FAKETIME).exists() {
                bail!("libfaketime is not installed (Debian: apt-get install faketime)");
            }
            std::fs::write(clock, "+0")?;
        }
        let log = self.machine.folder.join(format!("{name}.log"));
        let binary = self.binary.clone();
        slots.push(Slot { name, binary, half, own, http: free_port(), ops: free_port(), clock, process: None, log });
        Ok(number)
    }

    /// Where webhooks are taken.
    pub fn doors(&self) -> Vec<u16> {
        self.slots.borrow().iter().filter(|slot| slot.half != Half::Worker).map(|slot| slot.http).collect()
    }

    /// The processes of a half.
    pub fn of(&self, half: Half) -> Vec<usize> {
        let slots = self.slots.borrow();
        slots.iter().enumerate().filter(|(_, slot)| slot.half == half).map(|(number, _)| number).collect()
    }

    /// Starts a process.
    pub fn start(&self, number: usize) -> anyhow::Result<()> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(number).context("there is such a process")?;
        let mut command = self.machine.own(&slot.binary);
        command.arg("serve").current_dir(&self.machine.folder).envs(self.shared.iter().cloned());
        command.env("FINHOOK_HTTP_BIND", format!("127.0.0.1:{}", slot.http));
        command.env("FINHOOK_OPS_BIND", format!("127.0.0.1:{}", slot.ops));
        command.envs(slot.own.iter().cloned());
        match slot.half {
            Half::Receiver => command.args(["--only", "receiver"]),
            Half::Worker => command.args(["--only", "worker"]),
            Half::Both => &mut command,
        };
        if let Some(clock) = &slot.clock {
            // The wall clock jumps, as it does when it is set; the monotonic one never does on a real machine.
            command.env("LD_PRELOAD", FAKETIME).env("FAKETIME_TIMESTAMP_FILE", clock);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
        }
        slot.process = Some(Process::start(command, &slot.log)?);
        drop(slots);
        self.watch();
        Ok(())
    }

    /// kill -9.
    pub async fn kill(&self, number: usize) {
        let process = self.slots.borrow_mut().get_mut(number).and_then(|slot| slot.process.take());
        if let Some(process) = process {
            process.kill().await;
        }
    }

    /// SIGTERM; it has to end in order.
    pub async fn stop(&self, number: usize) -> anyhow::Result<()> {
        let taken =
            self.slots.borrow_mut().get_mut(number).and_then(|slot| Some((slot.process.take()?, slot.name.clone())));
        let Some((process, name)) = taken else { return Ok(()) };
        match process.stop(Duration::from_secs(30)).await {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{name} stopped with {status}"),
            None => bail!("{name} did not stop within 30 s of SIGTERM"),
        }
    }

    /// SIGTERM, and another one after a moment: nothing is waited for any longer.
    pub async fn stop_at_once(&self, number: usize, between: Duration) -> anyhow::Result<()> {
        let taken =
            self.slots.borrow_mut().get_mut(number).and_then(|slot| Some((slot.process.take()?, slot.name.clone())));
        let Some((process, name)) = taken else { return Ok(()) };
        match process.stop_twice(between).await {
            Some(status) if matches!(status.code(), Some(0 | 143)) => Ok(()),
            Some(status) => bail!("{name} stopped with {status} after a second SIGTERM"),
            None => bail!("{name} did not stop within 2 s of a second SIGTERM"),
        }
    }

    /// The most memory that each running process of a half ever had resident, in MiB.
    pub fn peak_memory(&self, half: Half) -> Vec<u64> {
        let slots = self.slots.borrow();
        let running = slots.iter().filter(|slot| slot.half == half).filter_map(|slot| slot.process.as_ref());
        running.filter_map(Process::peak_memory).collect()
    }

    /// Has a process be another program from its next start on.
    pub fn replace(&self, number: usize, binary: &Path) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(number) {
            slot.binary = binary.to_owned();
        }
    }

    /// Gives a process settings of its own from its next start on.
    pub fn set(&self, number: usize, name: &str, value: &str) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(number) {
            slot.own.retain(|(given, _)| given != name);
            slot.own.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Sets a process's wall clock off by so many seconds.
    pub fn jump(&self, number: usize, seconds: i64) -> anyhow::Result<()> {
        let clock = self.slots.borrow().get(number).and_then(|slot| slot.clock.clone());
        std::fs::write(clock.context("its clock is faked")?, format!("{seconds:+}"))?;
        Ok(())
    }

    /// Waits until a process serves.
    pub async fn serves(&self, number: usize, within: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + within;
        let (port, log, name) = {
            let slots = self.slots.borrow();
            let slot = slots.get(number).context("there is such a process")?;
            (if slot.half == Half::Worker { slot.ops } else { slot.http }, slot.log.clone(), slot.name.clone())
        };
        let ends = || self.ended.borrow().iter().filter(|ended| ended.starts_with(&name)).count();
        let before = ends();
        while Instant::now() < until {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(());
            }
            // Whoever ends at once will do so again.
            if ends() > before + 2 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        bail!("finhook does not serve; the end of its log:\n{}", tail(&log, 10))
    }

    /// Runs another command of finhook with the deployment's settings.
    pub async fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        self.run_as(&self.binary, words).await
    }

    /// The same with another program.
    pub async fn run_as(&self, binary: &Path, words: &[&str]) -> anyhow::Result<String> {
        let mut command = self.machine.own(binary);
        command.args(words).current_dir(&self.machine.folder).envs(self.shared.iter().cloned());
        let output = command.output().await?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if !output.status.success() {
            bail!("finhook {}: {said}", words.join(" "));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Notices processes that end by themselves, and starts them again as somebody would have to.
    fn watch(&self) {
        if self.watched.replace(true) {
            return;
        }
        let (slots, ended) = (Rc::downgrade(&self.slots), Rc::downgrade(&self.ended));
        let idle = Self { slots: Rc::default(), ended: Rc::default(), ..self.shallow() };
        tokio::task::spawn_local(async move {
            while let (Some(slots), Some(ended)) = (slots.upgrade(), ended.upgrade()) {
                let mut again = Vec::new();
                for (number, slot) in slots.borrow_mut().iter_mut().enumerate() {
                    if let Some(status) = slot.process.as_mut().and_then(Process::ended) {
                        let last = tail(&slot.log, 3).replace('\n', " / ");
                        ended.borrow_mut().push(format!("{} ended by itself, {status}: {last}", slot.name));
                        slot.process = None;
                        again.push(number);
                    }
                }
                let starter = Self { slots, ..idle.shallow() };
                if ended.borrow().len() < 20 {
                    again.into_iter().for_each(|number| drop(starter.start(number)));
                }
                drop((starter, ended));
                sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// Another handle of the same processes, which does not watch them.
    fn shallow(&self) -> Self {
        Self {
            machine: self.machine.clone(),
            name: self.name.clone(),
            binary: self.binary.clone(),
            shared: self.shared.clone(),
            slots: self.slots.clone(),
            ended: self.ended.clone(),
            watched: Cell::new(true),
        }
    }
}
