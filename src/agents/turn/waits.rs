//! A turn that waits for a person: permissions that no rule decides, and questions.
//!
//! The turn waits for `[chat] permission_timeout_s`; then what was asked is denied and the turn
//! ended, so that the model does not ask for ever, and the session waits instead (`asks`).

use super::drive::{Driver, Kept};
use crate::agents::asks::{self, Asked, Asker, Permit, Question};
use crate::agents::permission::{Decision, SessionRule};
use crate::agents::runtime::{Answer, RequestId};
use crate::failpoint::failpoint;
use crate::model::agent::{Waiting, WaitingFor};
use crate::model::event::Event;
use crate::model::ids::{PersonId, RequestId as Id};
use crate::store::StoreError;
use crate::store::agents as sessions;
use crate::store::requests::{self, Request, RequestState};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How many denials in a row end the turn.
pub(super) const DENIALS_MAX: usize = 3;

/// How often a turn tells the room about tools that nobody could be asked about.
const TOLD_MAX: usize = 3;

/// What a turn waits for.
#[derive(Default)]
pub(super) struct Waits {
    open: Vec<Wait>,
    /// What the agent said that it would wait for after the turn, before it had to wait in it.
    announced: Option<Waiting>,
    since: Option<Instant>,
    /// How long it waited, over all.
    pub waited: Duration,
    /// Denials in a row, and the last of them.
    pub denials: usize,
    pub last_denied: String,
    /// Whether somebody who was asked did not answer in time.
    pub lapsed: bool,
    told: usize,
}

/// One request of the runtime; several questions may stand in it.
struct Wait {
    request: RequestId,
    until: Instant,
    asked: Vec<OneAsked>,
}

struct OneAsked {
    id: Id,
    /// The question; `None`: a permission.
    question: Option<String>,
    answer: Option<Request>,
}

impl Waits {
    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }

    /// When the next wait is over.
    pub fn until(&self) -> Option<Instant> {
        self.open.iter().map(|wait| wait.until).min()
    }
}

impl Driver<'_> {
    fn asker(&self, waits: bool) -> Asker {
        let session = &self.begun.session;
        Asker {
            agent: session.agent.clone(),
            session: session.id,
            item: session.item,
            turn: waits.then_some(self.begun.turn),
            patience: self.asking_patience(),
        }
    }

    fn asking_patience(&self) -> Duration {
        Duration::from_secs(self.inner.config.chat.permission_timeout_s)
    }

    /// No rule decides about a tool: what a person allowed for the session does, or a person.
    pub(super) async fn permission(
        &mut self,
        request: RequestId,
        tool: String,
        input: Value,
        kept: &mut Kept,
    ) -> anyhow::Result<()> {
        let (asker, policy) = (self.asker(true), self.live.policy.clone());
        let (named, given) = (tool.clone(), input.clone());
        let asked = self
            .store
            .write(move |tx| {
                let rules = requests::allowed_for_session(tx, asker.session)?;
                let rules = rules.into_iter().filter_map(|rule| serde_json::from_value(rule).ok());
                let rules: Vec<SessionRule> = rules.collect();
                let with_rules = policy.with_session(rules);
                let for_session = policy.for_session(&named, &given);
                // A runtime may ask about what the policy allows, for reasons of its own: then only
                // a person answers.
                let covered = for_session.is_ok()
                    && policy.decide(&named, &given) == Decision::Ask
                    && with_rules.decide(&named, &given) == Decision::Allow;
                if covered {
                    return Ok(None);
                }
                asks::permission(tx, &asker, &named, &given, for_session).map(Some)
            })
            .await
            .map_err(|error: StoreError| anyhow::anyhow!(error))?;
        match asked {
            None => self.tell(&request, Answer::Allow { edited: None }).await,
            Some(Asked::Answered(answered)) => self.permit(&request, &answered).await,
            Some(Asked::Open(id)) => {
                let asked = vec![OneAsked { id, question: None, answer: None }];
                self.wait(request, asked).await?;
            }
            Some(Asked::Nobody) => self.refuse(&request, &tool, &input, kept).await,
        }
        Ok(())
    }

    /// The runtime asks questions.
    pub(super) async fn questions(
        &mut self,
        request: RequestId,
        questions: Vec<Question>,
    ) -> anyhow::Result<()> {
        let asker = self.asker(true);
        let (tell, asked) = (questions.clone(), questions);
        let outcomes: Vec<Asked> = self
            .store
            .write(move |tx| asked.iter().map(|one| asks::question(tx, &asker, one)).collect())
            .await
            .map_err(|error: StoreError| anyhow::anyhow!(error))?;
        let mut waits = vec![];
        for (question, outcome) in tell.into_iter().zip(outcomes) {
            let (id, answer) = match outcome {
                Asked::Open(id) => (id, None),
                Asked::Answered(answered) => (answered.id, Some(*answered)),
                Asked::Nobody => {
                    let message = "Nobody can be asked now. Decide yourself, and say in your \
                                   report what you decided."
                        .to_owned();
                    self.tell(&request, Answer::Deny { message, stop: false }).await;
                    return Ok(());
                }
            };
            waits.push(OneAsked { id, question: Some(question.text), answer });
        }
        self.wait(request, waits).await?;
        self.deliver().await
    }

    async fn tell(&self, request: &RequestId, answer: Answer) {
        // Withdrawn meanwhile: nothing to answer.
        let _ = self.live.session.answer(request, answer).await;
    }

    /// Notes that the turn waits; the session stands in `waiting` meanwhile.
    async fn wait(&mut self, request: RequestId, asked: Vec<OneAsked>) -> anyhow::Result<()> {
        let until = Instant::now() + self.asking_patience();
        let first = asked.first().map(|one| one.id);
        self.waits.open.push(Wait { request, until, asked });
        if self.waits.since.is_some() {
            return Ok(());
        }
        self.waits.since = Some(Instant::now());
        let session = self.begun.session.id;
        self.waits.announced = self
            .store
            .write(move |tx| {
                let before = sessions::find_session(tx, session)?.and_then(|found| found.waiting);
                let request = first.map(|id| requests::find(tx, id)).transpose()?.flatten();
                let detail = request.as_ref().map(asks::detail).unwrap_or_default();
                let waiting = Waiting { what: WaitingFor::Person, until: None, detail };
                // The first event of a turn moves it to `in_turn`, from where it may wait.
                sessions::move_state(tx, session, crate::model::agent::SessionState::InTurn)?;
                sessions::move_to_waiting(tx, session, &waiting)?;
                Ok::<_, StoreError>(before)
            })
            .await?;
        failpoint("agent-asked");
        Ok(())
    }

    /// Looks for answers, and gives them to the runtime.
    pub(super) async fn deliver(&mut self) -> anyhow::Result<()> {
        if !self.waits.is_waiting() {
            return Ok(());
        }
        let missing: Vec<Id> = self
            .waits
            .open
            .iter()
            .flat_map(|wait| wait.asked.iter().filter(|one| one.answer.is_none()))
            .map(|one| one.id)
            .collect();
        let found: Vec<Request> = self
            .store
            .write(move |tx| {
                let mut answered = vec![];
                for id in missing {
                    let Some(request) = requests::find(tx, id)? else { continue };
                    if request.state == RequestState::Answered {
                        // Noted before it is given: an answer is given once at most.
                        requests::used(tx, id)?;
                        answered.push(request);
                    }
                }
                Ok::<_, StoreError>(answered)
            })
            .await?;
        for request in found {
            let all = self.waits.open.iter_mut().flat_map(|wait| wait.asked.iter_mut());
            for one in all.filter(|one| one.id == request.id) {
                one.answer = Some(request.clone());
            }
        }
        while let Some(at) = self.waits.open.iter().position(Wait::is_answered) {
            let wait = self.waits.open.remove(at);
            self.give(wait).await;
        }
        self.maybe_go_on().await
    }

    async fn give(&mut self, wait: Wait) {
        let mut answers = BTreeMap::new();
        for one in wait.asked {
            let Some(answered) = one.answer else { continue };
            match one.question {
                Some(question) => {
                    answers.insert(question, answered.answer.unwrap_or_default());
                }
                None => {
                    self.permit(&wait.request, &answered).await;
                    return;
                }
            }
        }
        self.tell(&wait.request, Answer::Choice(answers)).await;
    }

    /// Gives a person's decision to the runtime.
    async fn permit(&mut self, request: &RequestId, answered: &Request) {
        let somebody = PersonId("somebody".to_owned());
        let by = answered.answered_by.as_ref().unwrap_or(&somebody);
        let permit = asks::permit_of(answered).unwrap_or(Permit::Deny { why: String::new() });
        let answer = match permit {
            Permit::Once | Permit::Session => Answer::Allow { edited: None },
            Permit::Deny { .. } => {
                let message = asks::denied(&permit, by);
                self.count_denial(&message);
                Answer::Deny { message, stop: false }
            }
        };
        self.tell(request, answer).await;
    }

    pub(super) fn count_denial(&mut self, why: &str) {
        self.waits.denials += 1;
        self.waits.last_denied = why.to_owned();
    }

    /// When nothing is waited for any more, the session is in its turn again.
    async fn maybe_go_on(&mut self) -> anyhow::Result<()> {
        if self.waits.is_waiting() {
            return Ok(());
        }
        let Some(since) = self.waits.since.take() else { return Ok(()) };
        self.waits.waited += since.elapsed();
        let (session, announced) = (self.begun.session.id, self.waits.announced.take());
        self.store.write(move |tx| sessions::end_wait(tx, session, announced.as_ref())).await?;
        Ok(())
    }

    /// The runtime withdrew a request: so does the room.
    pub(super) async fn withdrawn(&mut self, request: &RequestId) -> anyhow::Result<()> {
        let Some(at) = self.waits.open.iter().position(|wait| wait.request == *request) else {
            return Ok(());
        };
        let wait = self.waits.open.remove(at);
        let open = wait.asked.iter().filter(|one| one.answer.is_none());
        let open: Vec<Id> = open.map(|one| one.id).collect();
        self.store
            .write(move |tx| {
                open.into_iter().try_for_each(|id| {
                    asks::withdraw(tx, id, "the agent does not ask for it any more")
                })
            })
            .await
            .map_err(|error: StoreError| anyhow::anyhow!(error))?;
        self.maybe_go_on().await
    }

    /// Nobody answered in time: what was asked is denied, and the turn is to end. An answer that
    /// came in this moment counts.
    pub(super) async fn lapse(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let due: Vec<Id> = self
            .waits
            .open
            .iter()
            .filter(|wait| wait.until <= now)
            .flat_map(|wait| wait.asked.iter().filter(|one| one.answer.is_none()))
            .map(|one| one.id)
            .collect();
        let patience = self.asking_patience();
        let lapsed: Vec<Id> = self
            .store
            .write(move |tx| {
                let mut lapsed = vec![];
                for id in due {
                    if asks::lapse(tx, id, patience)? {
                        lapsed.push(id);
                    }
                }
                Ok::<_, StoreError>(lapsed)
            })
            .await?;
        self.deliver().await?;
        for at in (0..self.waits.open.len()).rev() {
            let unanswered = |wait: &Wait| wait.asked.iter().any(|one| lapsed.contains(&one.id));
            if unanswered(&self.waits.open[at]) {
                let wait = self.waits.open.remove(at);
                self.waits.lapsed = true;
                let message = "Nobody has answered yet. Your turn ends here; you are woken with \
                               the answer."
                    .to_owned();
                self.tell(&wait.request, Answer::Deny { message, stop: true }).await;
            }
        }
        Ok(())
    }

    /// Asks a person what shall become of an agent that was denied one thing after another.
    pub(super) async fn ask_about_denials(&mut self) {
        let asker = self.asker(false);
        let question = Question {
            text: format!(
                "I was denied {DENIALS_MAX} things in a row and was stopped. The last time: {}\n\n\
                 What shall I do?",
                crate::redact::redact(&self.waits.last_denied)
            ),
            options: vec![],
            several: false,
        };
        let asked = self.store.write(move |tx| asks::question(tx, &asker, &question)).await;
        if let Err(error) = asked as Result<Asked, StoreError> {
            tracing::error!(%error, "cannot ask about an agent that was denied too often");
        }
    }

    /// No rule covers a tool, and no room hears of the item: it is denied, and that is said.
    async fn refuse(&mut self, request: &RequestId, tool: &str, input: &Value, kept: &mut Kept) {
        let message = format!(
            "No rule allows {tool} with this input, and nobody can be asked now. Do without it; if \
             that is impossible, say so with ask_human."
        );
        self.count_denial(&message);
        self.tell(request, Answer::Deny { message, stop: false }).await;
        if self.waits.told >= TOLD_MAX {
            return;
        }
        self.waits.told += 1;
        let shown = input.get("command").and_then(Value::as_str);
        let shown = shown.map_or_else(|| input.to_string(), str::to_owned);
        let shown = crate::redact::redact(&shown[..shown.floor_char_boundary(500)]);
        kept.event = Some(Event::AgentSaid {
            item: self.begun.session.item,
            agent: self.begun.session.agent.clone(),
            text: format!(
                "wanted to use {tool} and no rule covers it, so it was denied:\n\n```\n{shown}\n```\n\
                 To allow such calls, add a rule to `allow` of the agent (for instance \
                 `{tool}(…)`), or set `permissions = \"auto\"`."
            ),
            question: true,
        });
    }
}

impl Wait {
    fn is_answered(&self) -> bool {
        self.asked.iter().all(|one| one.answer.is_some())
    }
}
