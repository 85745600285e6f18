//! Changes that race, and changes that repeat themselves.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::{collections::HashMap, sync::Arc};

use bits_core::{Commit, Piece, SessionStore, Transition};
use common::{advance, begun, live, load_live, new_session, open};

/// 64 tasks hold the same rows, and 16 of them want to move each session: one wins, and the row
/// says what the winner was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_64_moves_each_of_1000_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&folder.path().join("state.db")).await);
    let created = (0..1000).map(|_| async { begun(&store, &new_session()).await });
    let sessions = Arc::new(futures_util::future::join_all(created).await);
    let tasks: Vec<_> = (0..64)
        .map(|task: usize| {
            let (store, sessions) = (store.clone(), sessions.clone());
            tokio::spawn(async move {
                let mut won = Vec::new();
                for from in sessions.iter().skip(task % 4).step_by(4) {
                    let to = task as u64 + 1;
                    let piece = Piece { start: 0, len: to, id: format!("{task}") };
                    match store.commit(from, &advance(to, &[piece], false)).await.unwrap() {
                        Commit::Live(session) => won.push(session),
                        other => assert_eq!(other, Commit::Moved),
                    }
                }
                won
            })
        })
        .collect();
    let mut winners = HashMap::new();
    for task in tasks {
        for session in task.await.unwrap() {
            assert!(winners.insert(session.id, session.clone()).is_none(), "two moved {}", session.id);
        }
    }
    assert_eq!(winners.len(), sessions.len());
    for (id, session) in winners {
        let pieces = store.pieces(id, 0).await.unwrap();
        assert_eq!(pieces.iter().map(Piece::end).collect::<Vec<_>>(), [session.received]);
        assert_eq!(load_live(&store, id).await, session);
    }
}

/// What is named again is current, so that nobody deletes its bytes.
#[tokio::test]
async fn a_piece_that_comes_again_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db")).await;
    let piece = |start, len, id: &str| Piece { start, len, id: id.to_owned() };
    let session = begun(&store, &new_session()).await;
    let session = live(store.commit(&session, &advance(4, &[piece(0, 4, "a")], false)).await);
    let session = live(store.commit(&session, &Transition::Regress { to: 0 }).await);
    assert_eq!(store.replaced_pieces(session.id).await.unwrap(), [piece(0, 4, "a")]);
    let session = live(store.commit(&session, &advance(4, &[piece(0, 4, "a"), piece(0, 4, "a")], false)).await);
    assert_eq!(store.pieces(session.id, 0).await.unwrap(), [piece(0, 4, "a")]);
    assert_eq!(store.replaced_pieces(session.id).await.unwrap(), []);
    // The same name for other bytes is another piece.
    let session = live(store.commit(&session, &advance(8, &[piece(0, 8, "a")], false)).await);
    assert_eq!(store.pieces(session.id, 0).await.unwrap(), [piece(0, 8, "a")]);
    assert_eq!(store.replaced_pieces(session.id).await.unwrap(), [piece(0, 4, "a")]);
}
