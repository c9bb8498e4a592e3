//! Every example of the original's documentation, section by section. Where an example contradicts the rest of the
//! documentation, the snapshot follows the rest: `1 Lock Get Success: lock1` instead of `1 Got Lock`, and
//! `2 Shared Lock Is Locked: foo` as the reply to the last `si foo`.

use glockd::Policy;

use crate::script;

async fn check(section: &str, example: &str) {
    script::check(
        &format!("documentation__{section}"),
        Policy::default(),
        example,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_a_lock() {
    check(
        "get_a_lock",
        "
        B: g bar
        A: g foo
        A: g bar
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn release_a_lock() {
    check(
        "release_a_lock",
        "
        A: g foo
        A: r foo
        A: r bar
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_a_lock() {
    check(
        "inspect_a_lock",
        "
        B: g foo
        A: i foo
        A: i bar
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_a_list_of_one_or_more_locks_and_their_locking_connections() {
    check(
        "get_a_list_of_one_or_more_locks_and_their_locking_connections",
        "
        A: g foo
        B: g baz
        B: g bar
        B: g boo
        A: d
        A: d foo
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_a_printout_of_the_lock_data_structure() {
    check(
        "get_a_printout_of_the_lock_data_structure",
        "
        A: dump
        A: g foo
        B: g baz
        B: g bar
        B: g boo
        A: dump
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_a_shared_lock() {
    check(
        "get_a_shared_lock",
        "
        client1: sg foo
        client2: sg foo
        client2: sg bar
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn release_a_shared_lock() {
    check(
        "release_a_shared_lock",
        "
        client1: sg foo
        client2: sg foo
        client3: si foo
        client1: sr foo
        client3: si foo
        client2: sr foo
        client3: si foo
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_a_shared_lock() {
    check(
        "inspect_a_shared_lock",
        "
        client1: si foo
        client1: sg foo
        client2: si foo
        client2: sg foo
        client1: si foo
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_a_list_of_one_or_more_shared_locks_and_their_locking_connections() {
    check(
        "get_a_list_of_one_or_more_shared_locks_and_their_locking_connections",
        "
        A: sg foo
        B: sg foo
        A: sg blah
        A: sg bar
        A: sg baz
        A: sd
        A: sd foo
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_a_printout_of_the_shared_lock_data_structure() {
    check(
        "get_a_printout_of_the_shared_lock_data_structure",
        "
        A: dump shared
        A: sg foo
        B: sg foo
        A: sg blah
        A: sg bar
        A: sg baz
        A: dump shared
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn return_the_name_of_your_connection() {
    check(
        "return_the_name_of_your_connection",
        "
        A: me
        A: iam foo
        A: me
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_the_name_for_your_connection() {
    check(
        "set_the_name_for_your_connection",
        "
        A: g lock1
        A: d lock1
        A: iam foo
        A: d lock1
        A: iam
        A: d lock1
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn find_which_clients_have_chosen_to_be_a_specific_name() {
    check(
        "find_which_clients_have_chosen_to_be_a_specific_name",
        "
        client1: who
        client1: iam me
        client2: iam someone_else
        client1: who
        client1: who someone_else
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_stats_information() {
    check(
        "get_stats_information",
        "
        A: q
        A: g foo
        A: g bar
        A: sg foo
        B: sg foo
        B: g foo
        A: i foo
        A: si foo
        A: r bar
        A: sr nothing
        A: d
        A: d foo
        A: sd
        A: dump
        A: dump shared
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_response_command() {
    check(
        "stats_response_command",
        "
        A: me
        A: q
        A: iam foo
        A: who
        A: q
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_response_locks_shared_locks() {
    check(
        "stats_response_locks_shared_locks",
        "
        A: g foo
        A: g bar
        A: sg foo
        B: sg foo
        A: q
        B: sr foo
        A: r foo
        A: q
        A: sr foo
        A: r bar
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_response_orphans_shared_orphans() {
    check(
        "stats_response_orphans_shared_orphans",
        "
        A: g one
        A: sg one
        A: sg two
        A: sg three
        B: q
        - A
        B: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_response_connections() {
    check(
        "stats_response_connections",
        "
        A: q
        + B
        A: q
        - B
        A: q
        ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_response_invalid_commands() {
    check(
        "stats_response_invalid_commands",
        "
        A: stats
        A: q
        ",
    )
    .await;
}
