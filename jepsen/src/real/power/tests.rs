//! Invented logs: a program that does to files what is drawn, and writes down what the shim would.

use super::*;
use proptest::prelude::*;
use rand::SeedableRng as _;

const FILES: u8 = 4;

#[derive(Clone, Debug)]
enum Deed {
    Write { name: u8, offset: u16, bytes: u16, fill: u8 },
    Cut { name: u8, length: u16 },
    Sync { name: u8 },
    Create { name: u8 },
    Remove { name: u8 },
    Rename { from: u8, to: u8 },
    SyncDirectory,
}

fn deed() -> impl Strategy<Value = Deed> {
    let name = || 0..FILES;
    prop_oneof![
        4 => (name(), 0..3000_u16, 1..1500_u16, 1..=255_u8)
            .prop_map(|(name, offset, bytes, fill)| Deed::Write { name, offset, bytes, fill }),
        1 => (name(), 0..3000_u16).prop_map(|(name, length)| Deed::Cut { name, length }),
        2 => name().prop_map(|name| Deed::Sync { name }),
        2 => name().prop_map(|name| Deed::Create { name }),
        1 => name().prop_map(|name| Deed::Remove { name }),
        1 => (name(), name()).prop_map(|(from, to)| Deed::Rename { from, to }),
        1 => Just(Deed::SyncDirectory),
    ]
}

type Names = BTreeMap<String, usize>;

/// The program, and what it knows to be synced.
struct Program {
    data: PathBuf,
    home: PathBuf,
    log: Vec<u8>,
    syncs: u64,
    /// What each file it ever made held: since its last sync, the oldest first.
    contents: Vec<Vec<Vec<u8>>>,
    /// The names since the directory's last sync, the oldest first.
    names: Vec<Names>,
    held: Vec<Inode>,
}

impl Program {
    fn new(root: &Path) -> Self {
        let (data, home) = (root.join("data"), root.join("shim"));
        fs::create_dir(&data).unwrap();
        fs::create_dir_all(home.join(HELD)).unwrap();
        let (contents, names, held) = (Vec::new(), vec![Names::new()], Vec::new());
        Program { data, home, log: vec![VERSION], syncs: 0, contents, names, held }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    fn inode(&self, name: &str) -> Inode {
        fs::metadata(self.path(name)).unwrap().ino()
    }

    fn directory(&self) -> Inode {
        fs::metadata(&self.data).unwrap().ino()
    }

    fn record(&mut self, record: &Record) {
        record.encode(&mut self.log);
    }

    fn now(&self) -> Names {
        self.names.last().unwrap().clone()
    }

    fn hold(&mut self, name: &str) {
        let file = self.inode(name);
        let held = self.home.join(HELD).join(file.to_string());
        if !held.exists() {
            fs::hard_link(self.path(name), held).unwrap();
        }
        self.held.push(file);
    }

    /// Changes a file's content, by its record.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> Record) {
        let mut content = fs::read(self.path(name)).unwrap();
        let record = change(&mut content);
        self.record(&record);
        let file = OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.set_len(content.len() as u64).unwrap();
        file.write_all_at(&content, 0).unwrap();
        let object = self.now()[name];
        self.contents[object].push(content);
    }

    fn synced(&mut self, file: Inode) {
        self.syncs += 1;
        let number = self.syncs;
        self.record(&Record::SyncBegun { file, number });
        self.record(&Record::SyncEnded { file, number, is_ok: true });
    }

    fn act(&mut self, deed: &Deed) {
        let text = |name: &u8| format!("f{name}");
        let names = self.now();
        let is_there = |name: &u8| names.contains_key(&text(name));
        match deed {
            Deed::Write { name, offset, bytes, fill } if is_there(name) => {
                self.write(&text(name), *offset as usize, (*offset + *bytes) as usize, *fill);
            }
            Deed::Cut { name, length } if is_there(name) => {
                let file = self.inode(&text(name));
                self.change(&text(name), |content| {
                    let (old_length, new_length) = (content.len() as u64, u64::from(*length));
                    let before = content.get(*length as usize..).unwrap_or_default().to_vec();
                    content.resize(*length as usize, 0);
                    Record::Length { file, old_length, new_length, before }
                });
            }
            Deed::Sync { name } if is_there(name) => {
                self.synced(self.inode(&text(name)));
                let versions = &mut self.contents[names[&text(name)]];
                versions.drain(..versions.len() - 1);
            }
            Deed::Create { name } if !is_there(name) => self.create(&text(name)),
            Deed::Remove { name } if is_there(name) => self.remove(&text(name)),
            Deed::Rename { from, to } if from != to && is_there(from) => self.rename(&text(from), &text(to)),
            Deed::SyncDirectory => {
                self.synced(self.directory());
                for file in std::mem::take(&mut self.held) {
                    absent_is_fine(fs::remove_file(self.home.join(HELD).join(file.to_string()))).unwrap();
                }
                self.names = vec![names];
            }
            _ => {}
        }
    }

    fn write(&mut self, name: &str, from: usize, to: usize, fill: u8) {
        let file = self.inode(name);
        self.change(name, |content| {
            let old_length = content.len();
            let before = content[from.min(old_length)..to.min(old_length)].to_vec();
            content.resize(old_length.max(to), 0);
            content[from..to].fill(fill);
            let (offset, bytes) = (from as u64, (to - from) as u64);
            Record::Write { file, offset, bytes, old_length: old_length as u64, before }
        });
    }

    fn create(&mut self, name: &str) {
        let (directory, is_directory) = (self.directory(), false);
        self.record(&Record::Created { directory, name: name.into(), is_directory });
        fs::write(self.path(name), b"").unwrap();
        self.record(&Record::Born { file: self.inode(name) });
        let mut names = self.now();
        names.insert(name.to_owned(), self.contents.len());
        self.contents.push(vec![Vec::new()]);
        self.names.push(names);
    }

    fn remove(&mut self, name: &str) {
        self.hold(name);
        let (directory, file, is_directory) = (self.directory(), self.inode(name), false);
        self.record(&Record::Removed { directory, name: name.into(), file, is_directory });
        fs::remove_file(self.path(name)).unwrap();
        let mut names = self.now();
        names.remove(name);
        self.names.push(names);
    }

    fn rename(&mut self, from: &str, to: &str) {
        let mut names = self.now();
        let mut replaced = 0;
        if names.contains_key(to) {
            replaced = self.inode(to);
            self.hold(to);
        }
        let (directory, file) = (self.directory(), self.inode(from));
        self.record(&Record::Renamed { from: (directory, from.into()), to: (directory, to.into()), file, replaced });
        fs::rename(self.path(from), self.path(to)).unwrap();
        let object = names.remove(from).unwrap();
        names.insert(to.to_owned(), object);
        self.names.push(names);
    }

    fn lose(&self, loses_all: bool, seed: u64) -> Lost {
        fs::write(self.home.join(LOG), &self.log).unwrap();
        lose(&self.data, &self.home, loses_all, &mut SmallRng::seed_from_u64(seed)).unwrap()
    }

    fn found(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(&self.data).unwrap().map(|entry| entry.unwrap());
        let found = entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()));
        found.collect()
    }
}

/// Whether every sector, and the length, are of some version.
fn is_of(versions: &[Vec<u8>], found: &[u8]) -> bool {
    let sector = |content: &[u8], number: usize| {
        let mut bytes = content.get(number * 512..).unwrap_or_default().to_vec();
        bytes.truncate(512);
        bytes.resize(512, 0);
        bytes
    };
    let is_known = |number: usize| {
        let here = (found.len() - number * 512).min(512);
        versions.iter().any(|version| sector(version, number)[..here] == found[number * 512..][..here])
    };
    versions.iter().any(|version| version.len() == found.len()) && (0..found.len().div_ceil(512)).all(is_known)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_is_there_and_the_rest_once_was(
        deeds in proptest::collection::vec(deed(), 1..40), loses_all: bool, seed: u64,
    ) {
        let root = tempfile::tempdir().unwrap();
        let mut program = Program::new(root.path());
        deeds.iter().for_each(|deed| program.act(deed));
        program.lose(loses_all, seed);
        let found = program.found();
        let contents = &program.contents;
        let is_kept = |names: &Names| {
            let are_there = names.keys().eq(found.keys());
            are_there && names.iter().all(|(name, object)| is_of(&contents[*object], &found[name]))
        };
        prop_assert!(program.names.iter().any(is_kept), "{found:?}");
        if loses_all {
            prop_assert!(program.names[0].keys().eq(found.keys()));
            for (name, object) in &program.names[0] {
                prop_assert_eq!(&found[name], &contents[*object][0]);
            }
        }
        // Nothing is left to lose.
        let again = lose(&program.data, &program.home, loses_all, &mut SmallRng::seed_from_u64(seed)).unwrap();
        prop_assert_eq!(again, Lost::default());
        prop_assert_eq!(found, program.found());
    }

}

/// `one/a` is synced. Then `one` goes, with all that is in it, and `two` gets its number, and a sync of its own.
#[test]
fn a_directory_that_is_gone_comes_back_whole_although_another_has_its_number() {
    let root = tempfile::tempdir().unwrap();
    let mut program = Program::new(root.path());
    let [one, two] = ["one", "two"].map(|name| root.path().join("data").join(name));
    fs::create_dir(&two).unwrap();
    fs::write(two.join("x"), b"new").unwrap();
    // Which number the next directory gets is the file system's: the log says that it was this one.
    let (data, number, x) =
        (program.directory(), fs::metadata(&two).unwrap().ino(), fs::metadata(two.join("x")).unwrap().ino());
    let held = program.home.join(HELD).join("held");
    fs::write(&held, b"old").unwrap();
    let a = fs::metadata(&held).unwrap().ino();
    fs::rename(&held, held.with_file_name(a.to_string())).unwrap();
    let made = |directory, name: &str, is_directory| Record::Created { directory, name: name.into(), is_directory };
    let gone = |directory, name: &str, file, is_directory| {
        let name = name.into();
        Record::Removed { directory, name, file, is_directory }
    };
    let (born, in_it) = (|file| Record::Born { file }, |program: &mut Program| program.synced(number));
    [made(data, "one", true), born(number), made(number, "a", false), born(a)].iter().for_each(|r| program.record(r));
    program.synced(a);
    in_it(&mut program);
    program.synced(data);
    let rest = [
        gone(number, "a", a, false),
        gone(data, "one", number, true),
        made(data, "two", true),
        born(number),
        made(number, "x", false),
        born(x),
    ];
    rest.iter().for_each(|record| program.record(record));
    in_it(&mut program);
    program.lose(true, 1);
    assert_eq!(fs::read(one.join("a")).unwrap(), b"old");
    assert!(!two.exists());
}

fn one_of_each() -> Vec<Record> {
    let (name, directory) = (b"a".to_vec(), 3);
    vec![
        Record::Write { file: 1, offset: 2, bytes: 3, old_length: 4, before: vec![5] },
        Record::Length { file: 1, old_length: 2, new_length: 3, before: vec![] },
        Record::SyncBegun { file: 1, number: 2 },
        Record::SyncEnded { file: 1, number: 2, is_ok: true },
        Record::Created { directory, name: name.clone(), is_directory: false },
        Record::Born { file: 9 },
        Record::Removed { directory, name: name.clone(), file: 9, is_directory: true },
        Record::Renamed { from: (3, name.clone()), to: (4, name.clone()), file: 9, replaced: 0 },
        Record::Linked { directory, name, file: 9 },
    ]
}

/// What is read of a log is what was written, byte for byte, and a log of it is mended to the same records.
#[test]
fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
    let mut sound = Vec::new();
    one_of_each().iter().for_each(|record| record.encode(&mut sound));
    let home = tempfile::tempdir().unwrap();
    bolero::check!().with_iterations(1_000).with_max_len(120).for_each(|input: &[u8]| {
        for bytes in kvorum_storage::spoil::raw_and_spoiled(&sound, input) {
            let (mut rest, mut read) = (&bytes[..], Vec::new());
            while let Ok(Some(record)) = Record::decode(&mut rest) {
                read.push(record);
            }
            let mut written = Vec::new();
            read.iter().for_each(|record| record.encode(&mut written));
            assert_eq!(written, bytes[..bytes.len() - rest.len()]);
            fs::write(home.path().join(LOG), [&[VERSION], &bytes[..]].concat()).unwrap();
            mend_log(home.path()).unwrap();
            if let Ok(mended) = read_log(&home.path().join(LOG)) {
                assert_eq!(mended, read);
                assert_eq!(names::told_apart(&mended).len(), read.len());
            }
        }
    });
}

#[test]
fn records_are_read_as_they_were_written_up_to_an_incomplete_one() {
    let mut log = Vec::new();
    one_of_each().iter().for_each(|record| record.encode(&mut log));
    for cut in 0..log.len() {
        let (mut rest, mut read) = (&log[..cut], Vec::new());
        while let Some(record) = Record::decode(&mut rest).unwrap() {
            read.push(record);
        }
        assert!(one_of_each().starts_with(&read) && read.len() < one_of_each().len());
    }
    assert!(Record::decode(&mut [0, 0, 0, 1, 99].as_slice()).is_err(), "no such kind");
}

#[test]
fn what_is_appended_to_a_log_that_was_cut_anywhere_is_read_after_it_was_mended() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(LOG);
    mend_log(home.path()).unwrap();
    assert!(!path.exists(), "there was none");
    let mut log = vec![VERSION];
    one_of_each().iter().for_each(|record| record.encode(&mut log));
    let later = Record::Born { file: 77 };
    for cut in 0..=log.len() {
        fs::write(&path, &log[..cut]).unwrap();
        mend_log(home.path()).unwrap();
        let mut next = fs::read(&path).unwrap();
        // As the shim does when it is loaded.
        if next.is_empty() {
            next.push(VERSION);
        }
        later.encode(&mut next);
        fs::write(&path, &next).unwrap();
        let mut read = read_log(&path).unwrap();
        assert_eq!(read.pop().as_ref(), Some(&later), "cut at {cut}");
        assert!(one_of_each().starts_with(&read), "cut at {cut}");
        assert_eq!(read.len() == one_of_each().len(), cut == log.len());
    }
}

#[test]
fn the_first_version_of_a_record_stays_readable() {
    let fixture = [0, 0, 0, 25, 5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, b'd', b'a', b't', b'a'];
    let record = Record::Created { directory: 3, name: b"data".to_vec(), is_directory: true };
    assert_eq!(Record::decode(&mut fixture.as_slice()), Ok(Some(record.clone())));
    let mut written = Vec::new();
    record.encode(&mut written);
    assert_eq!(written, fixture);
}

#[test]
fn a_log_of_another_version_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut program = Program::new(root.path());
    program.log = vec![VERSION + 1];
    fs::write(program.home.join(LOG), &program.log).unwrap();
    let refused = lose(&program.data, &program.home, true, &mut SmallRng::seed_from_u64(1)).unwrap_err();
    assert!(refused.to_string().contains("not of this build"), "{refused}");
}
