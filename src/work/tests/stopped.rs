//! The emergency stop in the middle of work: what was only interrupted goes on afterwards, and
//! nothing unfinished counts as done.

use super::*;
use crate::store::meta;

const MORE: &str = r#"
[[agents]]
name = "lead-1"
role = "lead"
runtime = "replay"
[[agents]]
name = "merger-1"
role = "mergemaster"
runtime = "replay"
"#;

impl Bench {
    fn stop_all(&self) {
        self.write(|tx| Ok(meta::set(tx, meta::STOPPED_ALL, "@ann:hs")?)).unwrap();
    }

    fn resume_all(&self) {
        self.write(|tx| Ok(meta::remove(tx, meta::STOPPED_ALL)?)).unwrap();
    }

    /// Everything is stopped while the item's agent waits, and goes on much later.
    async fn stopped_while_it_waits(&mut self, id: ItemId) {
        self.waits_for_a_person(id);
        self.stop_all();
        self.is_ended_by_a_stop(id);
        let before = self.item(id).stage;
        for _ in 0..3 {
            self.wait_ms(60_000);
            self.settle().await;
            assert!(self.live(id).is_none(), "nothing starts");
        }
        assert_eq!(self.item(id).stage, before, "and nothing is taken for done");
        let told = self.read(|conn| explain(conn, id));
        assert!(told.contains("everything is stopped (by @ann:hs)"), "{told}");
        self.resume_all();
        self.settle().await;
    }

    fn revivals(&self, id: ItemId) -> usize {
        self.decided(id, What::Revived).len()
    }
}

#[tokio::test]
async fn a_coder_that_asked_a_person_goes_on_and_its_unfinished_work_is_not_landed() {
    for dirty in [&["half.txt"][..], &[]] {
        let mut bench = Bench::new();
        let id = bench.file(|_| {});
        bench.start(id);
        bench.settle().await;
        bench.worktree(id, Some("c0ffee11"), dirty);
        bench.stopped_while_it_waits(id).await;
        assert!(!bench.queued(id), "its commit was not its last word");
        assert_eq!(bench.decided(id, What::AskedToCommit).len(), 0, "nor was it asked to commit");
        let prompt = bench.prompt(id);
        assert!(prompt.contains("was stopped while it waited"), "{prompt}");
        assert_eq!(bench.revivals(id), 0, "that a stop ended it does not count");
    }
}

#[tokio::test]
async fn a_lead_a_qa_agent_and_a_mergemaster_go_on_too() {
    for role in ["lead", "qa", "mergemaster"] {
        let mut bench = Bench::with(MORE);
        let id = bench.file(|new| {
            new.qa = (role == "qa").then_some(QaMode::Agent);
            new.agent = (role == "lead").then(|| "lead-1".into());
        });
        bench.worktree(id, Some("c0ffee11"), &[]);
        bench.start(id);
        bench.settle().await;
        if role != "lead" {
            bench.report_done(id);
            bench.settle().await;
        }
        if role == "mergemaster" {
            bench.merge_fails(id, MergeFailureKind::Conflict { files: vec!["a.rs".to_owned()] });
            bench.settle().await;
        }
        let agent = bench.live(id).expect("it is at work").agent;
        bench.stopped_while_it_waits(id).await;
        let live = bench.live(id).unwrap_or_else(|| panic!("the {role} does not go on"));
        assert_eq!((&live.agent, live.role.as_str()), (&agent, role));
        assert_eq!(bench.revivals(id), 0);
        assert!(!bench.queued(id), "its old commit is not resolved");
    }
}
