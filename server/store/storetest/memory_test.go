package storetest_test

import (
	"testing"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/server/store/storetest"
)

// memory is the store of the engine's own tests.
type memory struct {
	*brokertest.Store
	apps broker.AppUID
}

func (m *memory) NewApp(*testing.T, string) broker.AppUID {
	m.apps++
	m.AddApp(m.apps)
	return m.apps
}

func (m *memory) DropApp(_ *testing.T, app broker.AppUID) { m.Forget(app) }

func (m *memory) Close() error { return nil }

func TestMemory(t *testing.T) {
	t.Parallel()
	storetest.RunLog(t, func(testing.TB) storetest.Log { return &memory{Store: brokertest.NewStore()} })
}
