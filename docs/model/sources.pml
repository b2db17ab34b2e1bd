/*
 * One partition and one named source: from a change in the source to the answer of a lookup.
 *
 * One change happens in the source. It takes an agent from a token that is known, or it starts the
 * job of a new one. Two senders of one name send it to Kafka, and heartbeats to `sources`. Each may
 * be slow, crash at any point, and begin anew. Spin tries every interleaving and checks two
 * promises of docs/guarantees.md. Here they count from the moment of the change in the source:
 *
 *   No over-grant: an answer that is fresh as of T has every change that happened before T.
 *   No false 401: no 401 if the job started in the source before the lookup arrived.
 *
 * freshness.pml has the brokers, Redis and the API. Three things are taken from it:
 *
 *   An end offset that witnesses confirm counts all that Kafka acknowledged before the question.
 *   A stamp follows the views of all that is applied. So `applied` stands for the view here.
 *   A lookup counts only stamps that may measure its view. So it reads the stamp itself here.
 *
 * The models compose, since freshness.pml needs one property of a probe: an event whose moment is
 * before T0 is applied when the stamp is written. There the moment is Kafka's acknowledgement, and
 * the end offset gives the property. Here the moment is the change, and a heartbeat gives it.
 *
 * A heartbeat that is true stays true. So it may come late, twice, from a run that has died, or
 * from a deposed leader. Only its `after` must be an offset of the log whose end the probe asked.
 *
 * -DNEW_TOKEN makes the change a job's start; without, it is a revocation. -DNEW_LOG has a single
 * sender, and an operator who deletes `sources` and makes it again. With two senders that breaks
 * the promises: the new log may have the other's heartbeat at the offset in `after`.
 *
 * Each further macro takes out one rule, and Spin then finds the order of steps that breaks a
 * promise. Rules of the worker:
 *
 *   NO_AFTER       a heartbeat counts whatever its `after` is
 *   NO_OFFSETS     a heartbeat counts before its offsets are applied
 *   APART          the worker keeps the highest `after` and the latest offsets apart
 *   ENDS_FIRST     a probe asks for the end of `sources` before it reads T0
 *   WORKER_BEHIND  that end is a deposed leader's, or leaves out what is behind an open transaction
 *   ANY_RECORD     with NEW_LOG: `after` need not be an earlier heartbeat of the source in this log
 *
 * Rules of the sender:
 *
 *   LOOK_FIRST     it looks at the source before its previous heartbeat is acknowledged
 *   SENT_IS_ACKED  it takes an event for acknowledged that it has only sent
 *   FIRST_VOUCHES  the first heartbeat of a run has an `after`, from the run before
 *   NO_ENDS        a run does not ask for the ends, or asks a deposed leader
 *   ENDS_EARLY     a run asks for the ends before it learns of events that others have sent
 *
 * With REACHED, Spin must find an answer that is fresh and contains the change, or a 401.
 */

#ifndef LENGTH
#define LENGTH 4     /* heartbeats in `sources`, at most 4 */
#endif
#ifdef NEW_LOG
#define SENDERS 1
#else
#define SENDERS 2
#endif

#define moment(t) d_step { t = now; now++ }

byte now = 1;

/* The source. */
bit changed;
byte changed_at;

/* Kafka: the event of the change. Copies of it do not matter, so an offset is 0 or 1. */
bit end;
bit on_its_way;      /* sent by a sender that does not wait for the acknowledgement */
bit applied;         /* by the worker */
bit noted;           /* in the senders' durable state: the event is sent */

/* The topic `sources`: heartbeats 1 to `length`. An `after` of 0 is none. */
byte length;
byte after[5];
bit offset[5];

byte stamp;
byte arrival;        /* of a lookup of the new token */

active proctype Source() {
  d_step { changed = 1; moment(changed_at) }
}

#define may_crash if :: goto begin :: skip fi

/* Learn from a state that all runs and senders share, or from one that has nothing yet. */
inline learn_what_is_sent() {
  if
  :: told = noted
  :: told = 0
  fi
}

inline ask_ends() {
#ifdef NO_ENDS
  below = 0
#else
  below = end
#endif
}

inline send_event() {
#ifdef SENT_IS_ACKED
  atomic { on_its_way = 1; told = 1; noted = 1; may_crash }
#else
  atomic { end = 1; may_crash };
  atomic { below = 1; told = 1; noted = 1; may_crash }   /* acknowledged */
#endif
}

/* Kafka has the heartbeat. The sender's next step follows the acknowledgement. */
inline send_heartbeat() {
  atomic {
    length < LENGTH ->
    length++;
    after[length] = previous;
    offset[length] = below;
    previous = length;
    may_crash
  }
}

active [SENDERS] proctype Sender() {
  byte previous;     /* its latest heartbeat */
  bit told;          /* it need not send the event */
  bit below;         /* its offsets */
  bit seen;          /* it has seen the change */
begin:
#ifdef ENDS_EARLY
  ask_ends();
  learn_what_is_sent();
#else
  learn_what_is_sent();
  ask_ends();
#endif
  d_step {
#ifndef FIRST_VOUCHES
    previous = 0;
#endif
    seen = 0
  }
#ifdef LOOK_FIRST
  seen = changed;
#endif
  _pid == 1 || length;    /* the senders are alike, so let process 1 begin */
  send_heartbeat();
  do
  ::
#ifndef LOOK_FIRST
     atomic { seen = changed; may_crash };
#endif
     if
     :: seen && !told -> send_event()
     :: else
     fi;
#ifdef LOOK_FIRST
     seen = changed;
#endif
     send_heartbeat()
  od
}

active proctype Network() {
  on_its_way -> end = 1
}

#ifdef NEW_LOG
active proctype Operator() {
  d_step {
    length = 0;
    after[1] = 0; after[2] = 0; after[3] = 0; after[4] = 0;
    offset[1] = 0; offset[2] = 0; offset[3] = 0; offset[4] = 0
  }
}
#endif

/* Events and heartbeats reach the worker by different ways, each as late as it likes. A heartbeat
 * needs no step here, since the owner may take its time to look at it. */
active proctype Delivery() {
  end -> applied = 1
}

#ifdef NO_AFTER
#define is_late_enough(h) (h <= length)
#elif defined(ANY_RECORD)
#define is_late_enough(h) (after[h] > end_of_sources)
#else
#define is_late_enough(h) (after[h] > end_of_sources && after[h] < h)
#endif

#ifdef NO_OFFSETS
#define is_applied(h) true
#elif defined(APART)
#define is_applied(h) (offset[length] <= applied)
#else
#define is_applied(h) (offset[h] <= applied)
#endif

#define counts(h) (is_late_enough(h) && is_applied(h))

/* Ask for the end offsets, that of `sources` among them. */
inline probe_ends() {
  atomic {
    end_of_sources = length;
    end_of_events = end;
#ifdef WORKER_BEHIND
    if
    :: end_of_sources = 0
    :: skip
    fi
#endif
  }
}

inline read_t0() {
#ifdef NEW_TOKEN
  arrival;                                          /* an earlier T0 proves no miss */
#endif
  t0 = now
}

/* One probe at any moment. More of them would not meet each other, as no heartbeat is used up. */
active proctype Owner() {
  byte t0, end_of_sources;
  bit end_of_events;
#ifdef ENDS_FIRST
  probe_ends();
  read_t0();
#else
  read_t0();
  probe_ends();
#endif
  end_of_events <= applied && (counts(1) || counts(2) || counts(3) || counts(4));
  stamp = t0
}

#ifndef NEW_TOKEN

active proctype Lookup() {
  stamp;                                            /* 200, fresh as of the stamp */
  assert(applied || !changed || stamp <= changed_at);
#ifdef REACHED
  assert(!(applied && stamp > changed_at));
#endif
}

#else

active proctype Lookup() {
  moment(arrival);
  stamp > arrival;                                  /* a proof */
  if
  :: applied                                        /* 200 */
  :: else ->                                        /* 401 */
     assert(!changed || changed_at > arrival);
#ifdef REACHED
     assert(false);
#endif
  fi
}

#endif
