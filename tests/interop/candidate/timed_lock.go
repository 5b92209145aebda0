package main

import (
	"context"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// timedLock remembers when the last successful write that names this candidate was sent. client-go keeps only when it
// received the answer, which is later by as long as the request took, or the process stood still.
type timedLock struct {
	resourcelock.Interface
	sent atomic.Pointer[time.Time]
}

func (l *timedLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.timed(record, func() error { return l.Interface.Create(ctx, record) })
}

func (l *timedLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.timed(record, func() error { return l.Interface.Update(ctx, record) })
}

func (l *timedLock) timed(record resourcelock.LeaderElectionRecord, write func() error) error {
	began := time.Now()
	if record.HolderIdentity != l.Identity() {
		l.sent.Store(nil) // a release: whoever sees it may lead before we have the answer
		return write()
	}
	if err := write(); err != nil {
		return err
	}
	l.sent.Store(&began)
	return nil
}

// sinceRenewal is how long ago it was, or longer than any lease when there was none.
func (l *timedLock) sinceRenewal() time.Duration {
	if began := l.sent.Load(); began != nil {
		return time.Since(*began)
	}
	return time.Duration(1<<63 - 1)
}
