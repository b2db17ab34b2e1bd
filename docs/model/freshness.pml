/*
 * One partition: from Kafka's acknowledgement of an event to the answer of a lookup.
 *
 * One event is sent. It takes an agent from a token that is known, or it starts the job of a new
 * one. One lookup asks for that token, at any moment. Spin tries every interleaving of brokers,
 * producer, owner, Redis, poll and lookup, and checks two promises of docs/guarantees.md:
 *
 *   No over-grant: an answer that is fresh as of T has every event acknowledged before T. The API
 *   refuses an answer whose T is older than the bound, so the bound needs no clock in this model.
 *   No false 401: no 401 if the job's start was acknowledged before the lookup arrived.
 *
 * There is one Redis, and each stamp is held to the rule for another server's stamps: T is later
 * than the meeting. On the view's own server the API asks for less: that the stamp was polled after
 * the meeting.
 *
 * `now` counts the moments that a rule compares with T. Nothing else advances it, so few values
 * are enough. What happens after a moment t has `now > t`.
 *
 * -DNEW_TOKEN makes the event a job's start; without, it is a revocation. Each further macro
 * takes out one cure, and Spin then finds the order of steps that breaks a promise:
 *
 *   ONE_WITNESS  a probe believes a single broker about the leader
 *   ENDS_FIRST   a probe asks for the end offset before it reads T0
 *   STAMP_FIRST  the owner stamps before it has written the view
 *   NO_HEAL      the owner goes on when another Redis answers, and writes nothing again
 *   LATEST_POLL  a lookup measures its view by a poll from after the view was read
 *   NO_MEETING   the API believes a stamp from before it met the server
 *   NO_PROOF     a missing record is a 401 at once
 *   ONE_POLL     a missing record is a 401 without a poll that was sent after the read
 *
 * With REACHED, Spin must find an answer that is fresh and contains the event, or a 401.
 */

#define moment(t) d_step { t = now; now++ }

byte now = 1;

/* Kafka: three replicas, min.insync.replicas=2. Broker 1 leads in epoch 1, broker 2 in epoch 2. */
byte epoch[4] = 1;   /* the epoch that brokers 1, 2 and 3 believe in; index 0 is not used */
bit acked;           /* a producer has the acknowledgement of the event */
bit acked_by_1;      /* broker 1 gave it */
byte acked_at;

/* Redis: whether the view contains the event, and the stamp, a time T. */
bit view, saved_view;
byte stamp, saved_stamp;
bit server;          /* the identity that every answer brings with it */

/* The API process: its latest poll, and since when it knows the server. */
byte poll_stamp, met;
bit known_server;
bit has_read;        /* the lookup has read its record */
bit polled_since;    /* the latest poll was sent after that */

/* The controller elects broker 2. Each broker learns of it at a time of its own, or never. */
active proctype Controller() {
  do
  :: epoch[1] = 2
  :: epoch[2] = 2
  :: epoch[3] = 2
  od
}

/* Leader and one follower of the same epoch acknowledge. Broker 2 was in sync in epoch 1, or it
 * could not be elected; so epoch 1 acknowledges nothing without it. */
active proctype Producer() {
  atomic {
    if
    :: epoch[1] == 1 && epoch[2] == 1 -> acked_by_1 = 1
    :: epoch[2] == 2 && (epoch[1] == 2 || epoch[3] == 2)
    fi;
    acked = 1;
    moment(acked_at)
  }
}

#define NOTHING 2    /* the end offset of a probe that does not count */

/* Ask a broker that was not asked before which epoch it believes in. */
inline ask_witness(answer) {
  atomic {
    if
    :: asked != 1 -> asked = 1; answer = epoch[1]
    :: asked != 2 -> asked = 2; answer = epoch[2]
    :: asked != 3 -> asked = 3; answer = epoch[3]
    fi
  }
}

/* Ask the witnesses, then their leader for its end offset: 1 once it has the event.
 * Two of three brokers meet every two that acknowledge. A broker that does not lead refuses. */
inline ask_end() {
  ask_witness(leader);
  witness = leader;
#ifndef ONE_WITNESS
  ask_witness(witness);
#endif
  d_step {
    if
    :: leader == witness && leader == 1 && epoch[1] == 1 -> end = acked_by_1
    :: leader == witness && leader == 2 && epoch[2] == 2 -> end = acked
    :: else -> end = NOTHING
    fi;
    asked = 0; leader = 0; witness = 0
  }
}

/* Read Redis TIME. It brings the server's identity: from another server nothing counts that was
 * written before, so the owner writes everything again and begins anew. */
inline read_t0() {
  atomic {
    t0 = now;
    if
    :: server != written_to ->
       written_to = server;
#ifndef NO_HEAL
       written = 0;
       t0 = 0
#endif
    :: else
    fi
  }
}

inline write_view() {
  atomic {
    if
    :: applied && !written -> view = 1; written = 1
    :: else
    fi
  }
}

inline write_stamp() {
  atomic {
    if
    :: t0 && end <= applied -> stamp = t0
    :: else
    fi
  }
}

active proctype Owner() {
  byte t0, asked, leader, witness, end;
  bit applied, written, written_to;
  do
  ::
#ifdef ENDS_FIRST
     ask_end();
     read_t0();
#else
     read_t0();
     ask_end();
#endif
     if                              /* a delivery, if there is one */
     :: acked -> applied = 1
     :: skip
     fi;
#ifdef STAMP_FIRST
     write_stamp();
     write_view();
#else
     write_view();
     write_stamp();
#endif
     d_step { t0 = 0; end = 0 }
  od
}

/* Redis is replaced by an older self: an old RDB, or a replica that lags. */
active proctype Replacement() {
  d_step { saved_view = view; saved_stamp = stamp };
  d_step { view = saved_view; stamp = saved_stamp; server = 1 }
}

/* Note a new server. A new connection asks for its identity, and so does every poll. The lookup of
 * a known token reads by a connection that does not outlive its server. */
inline meet() {
  if
  :: known_server != server -> known_server = server; moment(met)
  :: else
  fi
}

active proctype Poll() {
  byte answer;
  bit since;
  do
  :: since = has_read;                              /* sent */
     atomic { meet(); answer = stamp };             /* served */
     d_step {                                       /* received */
       poll_stamp = answer; polled_since = since; answer = 0; since = 0
     }
  od
}

#ifdef NO_MEETING
#define counts(t) (t > 0)
#else
#define counts(t) (t > met)
#endif

#ifndef NEW_TOKEN

active proctype Lookup() {
  byte measure;
  bit revoked;
  measure = poll_stamp;
  atomic { meet(); revoked = view };
#ifdef LATEST_POLL
  measure = poll_stamp;
#endif
  if
  :: counts(measure) ->                             /* 200, fresh as of `measure` */
     assert(revoked || !acked || measure <= acked_at);
#ifdef REACHED
     assert(!(revoked && measure > acked_at));
#endif
  :: else                                           /* 503 */
  fi
}

#else

/* A miss. A proxy may have kept the connection to a server that was replaced, so the read itself
 * brings no identity here; the poll after it does. */
active proctype Lookup() {
  byte arrival, measure;
  bit found;
  moment(arrival);
#ifdef NO_PROOF
  measure = now;
#else
  atomic { poll_stamp > arrival && counts(poll_stamp) -> measure = poll_stamp };
#endif
  found = view;
  has_read = 1;
#if !defined(NO_PROOF) && !defined(ONE_POLL)
  polled_since;
#endif
  if
  :: found                                          /* 200 */
  :: !found && counts(measure) ->                   /* 401 */
     assert(!acked || acked_at > arrival);
#ifdef REACHED
     assert(false);
#endif
  :: else                                           /* once more, or 503 */
  fi
}

#endif
