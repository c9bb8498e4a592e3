use super::*;

fn default_flags() -> Flags {
    parse(&[]).unwrap()
}

fn read(argv: &str) -> Result<Flags, FlagsError> {
    let argv: Vec<OsString> = argv
        .split_whitespace()
        .map(|word| if word == "''" { "" } else { word }.into())
        .collect();
    parse(&argv)
}

#[test]
fn last_of_a_repeated_flag_counts() {
    #[track_caller]
    fn check(argv: &str, expect: Flags) {
        assert_eq!(read(argv), Ok(expect), "{argv}");
    }
    let default = default_flags;
    check("", default());
    check(
        "-port 1 -ws 2 --port=0x3 -ws=0",
        Flags {
            port: 3.into(),
            ws: 0.into(),
            ..default()
        },
    );
    check(
        "-port -1 -ws 70000",
        Flags {
            port: (-1).into(),
            ws: 70000.into(),
            ..default()
        },
    );
    check(
        "-unix /a -pidfile /b -unix=/c -state-dir /d",
        Flags {
            unix: Some(UnixSocket::Path("/c".into())),
            state_dir: Some("/d".into()),
            pidfile: Some("/b".into()),
            ..default()
        },
    );
    check("-unix /a -unix '' -pidfile=/b -pidfile=", default());
    check(
        "-unix @a",
        Flags {
            unix: Some(UnixSocket::Abstract("a".to_owned())),
            ..default()
        },
    );
    check(
        "-dump=false -registry=F -extensions=0 -verbose",
        Flags {
            dump: false,
            registry: false,
            extensions: false,
            verbose: true,
            ..default()
        },
    );
    check("-dump=0 -dump -verbose -verbose=false", default());
    check(
        "-max-line 1",
        Flags {
            max_line: 1,
            ..default()
        },
    );
    check(
        "-unix-mode 0700 -ws-origin a.example -ws-origin=same,b.example",
        Flags {
            unix_mode: 0o700,
            ws_origin: Origins::parse("same,b.example").unwrap(),
            ..default()
        },
    );
    check(
        "-keepalive 1m -write-timeout=1.5s -handshake-timeout 100ms",
        Flags {
            keepalive: Some(Duration::from_secs(60)),
            write_timeout: Some(Duration::from_millis(1500)),
            handshake_timeout: Duration::from_millis(100),
            ..default()
        },
    );
    check(
        "-keepalive 0 -write-timeout 0s",
        Flags {
            keepalive: None,
            write_timeout: None,
            ..default()
        },
    );
    check(
        "-max-connections 1 -max-connections-per-ip=2 -max-locks 3 -max-locks-per-connection 4 \
         -max-waiters 5",
        Flags {
            max_connections: Some(1),
            max_connections_per_ip: Some(2),
            max_locks: Some(3),
            max_locks_per_connection: Some(4),
            max_waiters: Some(5),
            ..default()
        },
    );
    check(
        "-max-connections 1 -max-connections 0 -max-locks=0",
        default(),
    );
    check(
        "-max-line 1_073_741_824",
        Flags {
            max_line: 1 << 30,
            ..default()
        },
    );
}

#[test]
fn repeated_bind_adds_up() {
    #[track_caller]
    fn check(argv: &str, expect: &[&str]) {
        let bind = |text: &&str| bind::parse(text).unwrap()[0];
        let expect: Vec<Bind> = expect.iter().map(bind).collect();
        assert_eq!(read(argv).unwrap().addresses(), expect, "{argv}");
    }
    check("", &[]);
    check("-bind all", &[]);
    check(
        "-bind 127.0.0.1 -bind=::1,10.0.0.1,::1",
        &["127.0.0.1", "::1", "10.0.0.1"],
    );
    check("-bind -::1 -bind localhost,::1", &["::1", "-127.0.0.1"]);
    check("-bind 127.0.0.1 -bind all", &[]);
    check("-bind all -bind ::1", &["::1"]);
}

#[test]
fn every_value_of_a_repeated_flag_is_checked() {
    #[track_caller]
    fn check(argv: &str, expect: &str) {
        let error = read(argv).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}\n{expect}", usage::text::<Flags>()),
            "{argv}"
        );
    }
    let range = |value: &str| {
        format!("invalid value \"{value}\" for flag -max-line: not from 1 to 1073741824")
    };
    check("-max-line 0", &range("0"));
    check("-max-line -1 -max-line 5", &range("-1"));
    check("-max-line 1073741825 -help", &range("1073741825"));
    check("-max-line 0 -bogus", &range("0"));
    for (argv, value, flag, allowed) in [
        (
            "-keepalive 100ms",
            "100ms",
            "keepalive",
            "0, or from 1s to 32767s",
        ),
        (
            "-keepalive 9h10m",
            "9h10m",
            "keepalive",
            "0, or from 1s to 32767s",
        ),
        (
            "-keepalive 0 -keepalive=-1s",
            "-1s",
            "keepalive",
            "0, or from 1s to 32767s",
        ),
        (
            "-write-timeout=-1m",
            "-1m",
            "write-timeout",
            "0, or more than that",
        ),
        (
            "-handshake-timeout 0",
            "0",
            "handshake-timeout",
            "more than 0",
        ),
    ] {
        let expect = format!("invalid value \"{value}\" for flag -{flag}: out of range: {allowed}");
        check(argv, &expect);
    }
    check("-max-line 1_073_741_825", &range("1_073_741_825"));
    check("-max-line 0x4000_0001 -port 1", &range("0x4000_0001"));
    for flag in [
        "max-connections",
        "max-connections-per-ip",
        "max-locks",
        "max-locks-per-connection",
    ] {
        check(
            &format!("-{flag}=-1 -{flag}=1"),
            &format!("invalid value \"-1\" for flag -{flag}: not from 0 to 4294967295"),
        );
    }
    for (value, reason) in [
        ("777", "a mode is octal: write 0777"),
        ("400", "a mode is octal: write 0400"),
        ("+660", "a mode is octal: write 0660"),
        ("489", "not from 0 to 0777"),
        ("1000", "not from 0 to 0777"),
        ("0x1000", "not from 0 to 0777"),
        ("01000", "not from 0 to 0777"),
        ("-1", "not from 0 to 0777"),
    ] {
        check(
            &format!("-unix-mode {value} -unix-mode 0"),
            &format!("invalid value \"{value}\" for flag -unix-mode: {reason}"),
        );
    }
    check(
        "-unix @x -unix-mode 0700",
        "invalid value \"0700\" for flag -unix-mode: -unix @x has no file, and so no mode: every user may \
         connect",
    );
    check(
        "-unix @ -unix /a",
        "invalid value \"@\" for flag -unix: the name of the abstract socket is missing",
    );
    for argv in [
        "-state-dir ''",
        "-state-dir /a -state-dir=",
        "-state-dir= -state-dir /a",
    ] {
        check(
            argv,
            "invalid value \"\" for flag -state-dir: the directory has no name; to keep no state, leave the \
             flag out",
        );
    }
    check(
        "-bind ::1,example.org",
        "invalid value \"::1,example.org\" for flag -bind: \"example.org\" is neither an IP address nor \
         localhost",
    );
    check(
        "-bind 127.0.0.1 -bind=",
        "invalid value \"\" for flag -bind: \"\" is neither an IP address nor localhost",
    );
    for (list, part) in [
        ("", ""),
        (",", ""),
        ("same,*", "*"),
        ("http://a.example", "http://a.example"),
        ("a.example:", "a.example:"),
        ("a.example:99999", "a.example:99999"),
    ] {
        let message = format!("{part:?} is not a host, nor a host and a port");
        check(
            &format!("-ws-origin={list} -ws-origin same"),
            &format!("invalid value {list:?} for flag -ws-origin: {message}"),
        );
    }
    check(
        "-ws-origin same,all",
        "invalid value \"same,all\" for flag -ws-origin: \"all\" admits every page, so it cannot be combined with other hosts",
    );
    check(
        "-keepalive 15",
        "invalid value \"15\" for flag -keepalive: parse error",
    );
    check(
        "-bogus -max-line 0",
        "flag provided but not defined: -bogus",
    );
    check(
        "-port x -port 1",
        "invalid value \"x\" for flag -port: parse error",
    );
    check(
        "-dump false",
        "unexpected argument \"false\": to set a boolean flag, write -dump=false",
    );
}

#[test]
fn help_and_version_are_answers() {
    for (argv, stream) in [
        ("-help", Stream::Stderr),
        ("-h -bogus", Stream::Stderr),
        ("-help -max-line 0", Stream::Stderr),
        ("-port 1 -help --help", Stream::Stderr),
        ("-port 1 --help", Stream::Stdout),
    ] {
        let text = usage::text::<Flags>();
        assert_eq!(
            read(argv),
            Err(FlagsError::Answer { text, stream }),
            "{argv}"
        );
    }
    for argv in ["-version", "--version -bogus", "-port 1 -version -help"] {
        let answer = FlagsError::Answer {
            text: format!("glockd {VERSION}"),
            stream: Stream::Stdout,
        };
        assert_eq!(read(argv), Err(answer), "{argv}");
    }
}

#[test]
fn usage_states_the_real_defaults() {
    let mut stated = 0;
    for flag in table() {
        if let Some((_, default)) = flag.description.split_once("(default ") {
            let argv: Vec<OsString> = match default.trim_end_matches(')') {
                // Only to be had by leaving the flag out.
                "none" => Vec::new(),
                "off" => vec![format!("{}=", flag.long).into()],
                value => vec![format!("{}={value}", flag.long).into()],
            };
            let mut flags = parse(&argv).unwrap();
            assert_eq!(flags.addresses(), [], "{argv:?}");
            flags.bind.clear();
            assert_eq!(flags, default_flags(), "{argv:?}");
            stated += 1;
        }
    }
    assert_eq!(stated, table().len() - 1, "all but -help");
}
