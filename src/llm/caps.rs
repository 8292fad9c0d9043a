//! Limits in money that could not hold, because nobody knows what a model costs.

use super::price::{self, Price};
use crate::config::{AgentConfig, Config, Provider, RuntimeKind};

/// A limit that could not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unheld {
    /// Its key, such as `agents[1].max_usd`.
    pub key: String,
    /// Why, and what to do, as a sentence.
    pub why: String,
}

/// The limits in money that could not hold.
///
/// Claude Code tells what it costs itself; what Codex costs is reckoned from list prices.
pub fn unheld(config: &Config) -> Vec<Unheld> {
    let days = days(config);
    let mut out: Vec<Unheld> = vec![];
    if let Some(why) = unpriced(config, &config.llm.model) {
        out.extend(days.iter().map(|key| told(key, &why)));
    }
    for (position, agent) in config.agents.iter().enumerate() {
        let Some(why) = unpriced_agent(config, agent) else { continue };
        let own = agent.max_usd.map(|_| format!("agents[{position}].max_usd"));
        let item = config.limits.usd_per_item.map(|_| "limits.usd_per_item".to_owned());
        let keys = own.into_iter().chain(item).chain(days.iter().cloned());
        for key in keys {
            // Once a key is enough to mend it.
            if !out.iter().any(|known| known.key == key) {
                out.push(told(&key, &format!("of agent {}, {why}", agent.name)));
            }
        }
    }
    out
}

/// The limits that the coordinator counts against, too.
fn days(config: &Config) -> Vec<String> {
    let all = config.limits.usd_per_day.map(|_| "limits.usd_per_day".to_owned());
    let projects = config.projects.iter().enumerate();
    let projects = projects
        .filter(|(_, project)| project.usd_per_day.is_some())
        .map(|(position, _)| format!("projects[{position}].usd_per_day"));
    all.into_iter().chain(projects).collect()
}

fn told(key: &str, why: &str) -> Unheld {
    Unheld { key: key.to_owned(), why: format!("it could not hold: {why}") }
}

fn unpriced_agent(config: &Config, agent: &AgentConfig) -> Option<String> {
    match agent.runtime {
        RuntimeKind::Api => unpriced(config, agent.model.as_deref().unwrap_or(&config.llm.model)),
        RuntimeKind::Codex => {
            let model = agent.model.as_deref().unwrap_or_default();
            Price::listed(model).is_none().then(|| {
                format!(
                    "which runs on Codex, no price is known for the model {model:?}: set `model` \
                     to one with a list price, such as \"gpt-5\", or limit tokens instead \
                     (max_tokens, tokens_per_day)"
                )
            })
        }
        RuntimeKind::ClaudeCode | RuntimeKind::Acp | RuntimeKind::Replay => None,
    }
}

/// Why nobody knows what a model costs, and what to do; `None` when its price is known.
pub fn unpriced(config: &Config, model: &str) -> Option<String> {
    let free = config.llm.provider == Provider::Replay;
    (!free && price::of(&config.llm, model).is_none()).then(|| {
        format!(
            "no price is known for the model {model}: set usd_per_million_input and \
             usd_per_million_output in [llm], or limit tokens instead of money"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(model: &str, more: &str) -> Vec<String> {
        let text = format!(
            "[llm]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:9\"\nmodel = \"{model}\"\n\
             {more}"
        );
        let config: Config = toml::from_str(&text).unwrap();
        unheld(&config).into_iter().map(|unheld| unheld.key).collect()
    }

    #[test]
    fn a_cap_in_money_that_could_not_hold_is_named() {
        let cap = "[limits]\nusd_per_day = 5.0";
        assert!(keys("gpt-4o", cap).is_empty());
        assert!(keys("home-grown", "").is_empty());
        let priced = format!("usd_per_million_input = 1.0\nusd_per_million_output = 2.0\n{cap}");
        assert!(keys("home-grown", &priced).is_empty());
        assert_eq!(keys("home-grown", cap), ["limits.usd_per_day"]);
        let agent = "[[agents]]\nname = \"a\"\nrole = \"coder\"\nruntime = \"api\"\nmax_usd = 1.0";
        assert!(keys("gpt-4o", agent).is_empty());
        let own = format!("{agent}\nmodel = \"home-grown\"");
        assert_eq!(keys("gpt-4o", &own), ["agents[0].max_usd"]);
        let both = format!("{cap}\n{own}");
        assert_eq!(keys("gpt-4o", &both), ["agents[0].max_usd", "limits.usd_per_day"]);
        let item = format!("[limits]\nusd_per_item = 5.0\n{own}");
        assert_eq!(keys("gpt-4o", &item), ["agents[0].max_usd", "limits.usd_per_item"]);
        let project = "[[projects]]\nname = \"p\"\npath = \"p\"\nusd_per_day = 1.0";
        assert_eq!(keys("home-grown", project), ["projects[0].usd_per_day"]);
        let codex = agent.replace("\"api\"", "\"codex\"");
        assert!(keys("gpt-4o", &format!("{codex}\nmodel = \"gpt-5-codex\"")).is_empty());
        assert_eq!(keys("gpt-4o", &codex), ["agents[0].max_usd"]);
        let cli = both.replace("\"api\"", "\"claude-code\"");
        assert!(keys("gpt-4o", &cli).is_empty(), "CLIs tell what they cost");
    }
}
