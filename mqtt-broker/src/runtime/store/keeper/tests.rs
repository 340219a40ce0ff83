//! The thread of the store where the system has no more open files, in a process of its own.

use std::env;
use std::process::Command as Process;

use super::*;
use crate::store::cold::ChunkWriter;

const CORE: CoreId = CoreId(0);

/// Says that this process is the one with few open files, and where its directory is.
const DIRECTORY: &str = "MQTT_BROKER_TEST_KEEPER";

fn next_done(shared: &Shared) -> Done {
    let deadline = monotonic_millis() + 30_000;
    loop {
        if let Some(Command::Store(done)) = shared.core(CORE).inbox.pop() {
            return done;
        }
        assert!(monotonic_millis() < deadline, "no answer");
        std::thread::yield_now();
    }
}

/// Nothing of it is lost, and nothing fails.
#[test]
fn what_no_file_can_be_opened_for_is_done_when_there_are_files_again() {
    let Some(path) = env::var_os(DIRECTORY) else {
        let path = env::temp_dir().join(format!("mqtt-keeper-{}", std::process::id()));
        let module = module_path!().split_once("::").expect("it is in a crate").1;
        let name = format!("{module}::what_no_file_can_be_opened_for_is_done_when_there_are_files_again");
        let ended = Process::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture"])
            .arg(env::current_exe().expect("Linux says so"))
            .arg(name)
            .env(DIRECTORY, &path)
            .output()
            .expect("it starts");
        let _ = std::fs::remove_dir_all(&path);
        let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
        return assert!(ended.status.success() && said.contains("1 passed"), "{said}");
    };
    let directory = Directory::open(path.as_ref(), 1).expect("a new one");
    let cold = ColdFiles::open(path.as_ref(), directory.hash_key(), &[], false).expect("nothing is there");
    let shared = Shared::new(1).expect("there are files");
    let (jobs, thread) = spawn(directory, cold, Arc::clone(&shared)).expect("there are threads");
    let (messages, records) = ChunkWriter::default().finish();
    let parks = (1..=2).map(|ticket| super::super::cold::Park { ticket, messages, records: records.clone() });
    jobs.ask(CORE, Job::Cold(ColdJob::Park(parks.collect())));
    let Done::Cold(ColdDone::Parked(parked)) = next_done(&shared) else { panic!("it was asked to park") };
    let [first, second] = [0, 1].map(|nth: usize| parked[nth].1.expect("there is room"));
    let segment = |number| Segment { number, bytes: 64 << 10 };
    jobs.ask(CORE, Job::Make(segment(0)));
    assert!(matches!(next_done(&shared), Done::Made(Ok(()))));

    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    jobs.ask(CORE, Job::Cold(ColdJob::Load(3, first)));
    jobs.ask(CORE, Job::Cold(ColdJob::Load(4, second)));
    jobs.ask(CORE, Job::Open(0));
    // One that is over meanwhile is not waited for, and its file may go.
    jobs.ask(CORE, Job::Cold(ColdJob::Release(vec![second])));
    assert!(matches!(next_done(&shared), Done::Cold(ColdDone::Loaded(4, Loaded::Lost))));
    // What is not tried again says that the others were tried.
    jobs.ask(CORE, Job::Make(segment(1)));
    assert!(matches!(next_done(&shared), Done::Made(Err(_))));
    drop(files);
    assert!(matches!(next_done(&shared), Done::Cold(ColdDone::Loaded(3, Loaded::Messages(_)))));
    assert!(matches!(next_done(&shared), Done::Opened(0, Ok(_))));
    drop(jobs);
    thread.join().expect("it ends");
    assert!(!shared.has_failed());
}
