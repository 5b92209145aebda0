// Candidate stands in a leader election by client-go's own rules, and answers over HTTP whom it takes for the leader.
//
// It is what our elector is tested and measured against. One source, two module files: go.mod names the current client-go,
// which knows Leases only, and v0.22.mod the last one whose Endpoints lock works.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

type options struct {
	kubeconfig, lock, namespace, name, id, address string
	lease, renew, retry                            time.Duration
	releaseOnCancel                                bool
}

func main() {
	var o options
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach the API server")
	flag.StringVar(&o.lock, "lock", "leases", "endpoints (client-go 0.22) or leases")
	flag.StringVar(&o.namespace, "namespace", "default", "of the lock object")
	flag.StringVar(&o.name, "name", "", "of the lock object")
	flag.StringVar(&o.id, "id", "", "of this candidate")
	flag.DurationVar(&o.lease, "lease", 15*time.Second, "others take over after this time without a renewal")
	flag.DurationVar(&o.renew, "renew", 10*time.Second, "the leader gives up after this time without a renewal")
	flag.DurationVar(&o.retry, "retry", 2*time.Second, "between two tries")
	flag.StringVar(&o.address, "http", "", "where to answer, HOST:PORT")
	flag.BoolVar(&o.releaseOnCancel, "release-on-cancel", false, "empty the lock on SIGTERM")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	if err := run(ctx, o); err != nil {
		log.Fatal(err)
	}
}

// run stands until the context ends, again and again: client-go's elector returns when it has lost its leadership.
func run(ctx context.Context, o options) error {
	held, err := newLock(o)
	if err != nil {
		return err
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            held,
		LeaseDuration:   o.lease,
		RenewDeadline:   o.renew,
		RetryPeriod:     o.retry,
		ReleaseOnCancel: o.releaseOnCancel,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { log.Print("started leading") },
			OnStoppedLeading: func() { log.Print("stopped leading") },
			OnNewLeader:      func(leader string) { log.Printf("leader is %s", leader) },
		},
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.address)
	if err != nil {
		return err
	}
	go serve(listener, elector, held, o.renew)
	for ctx.Err() == nil {
		elector.Run(ctx)
	}
	return nil
}

func newLock(o options) (*timedLock, error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Timeout = max(o.renew/2, time.Second) // as resourcelock.NewFromKubeconfig has it
	core, err := corev1.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	coordination, err := coordinationv1.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	identity := resourcelock.ResourceLockConfig{Identity: o.id}
	lock, err := resourcelock.New(o.lock, o.namespace, o.name, core, coordination, identity)
	if err != nil {
		return nil, err
	}
	return &timedLock{Interface: lock}, nil
}

func serve(listener net.Listener, elector *leaderelection.LeaderElector, held *timedLock, renew time.Duration) {
	// Without a bound in time, as most who use client-go: this is the elector's view and nothing else.
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"name": elector.GetLeader()})
	})
	// With it: how long the leader may still be sure, counted from before its last renewal.
	http.HandleFunc("/leading", func(w http.ResponseWriter, _ *http.Request) {
		left := max(renew-held.sinceRenewal(), 0)
		leading := elector.IsLeader() && left > 0
		status := http.StatusOK
		if !leading {
			status, left = http.StatusConflict, 0
		}
		answer(w, status, map[string]any{"leading": leading, "expires_in": left.Seconds()})
	})
	log.Fatal(http.Serve(listener, nil))
}

func answer(w http.ResponseWriter, status int, body map[string]any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("a body that is no JSON: %v", err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // who asked may have gone
}
