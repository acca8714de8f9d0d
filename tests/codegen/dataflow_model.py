"""A cycle-by-cycle model of processes with blocking FIFOs, to hold the analytic schedule against."""

from collections import deque


class _Fifo:
    def __init__(self, depth):
        self.depth, self.words, self.fresh, self.freed = depth, 0, 0, 0

    def can_read(self):
        return self.words > 0

    def can_write(self):
        return self.words + self.fresh + self.freed < self.depth

    def read(self):
        self.words, self.freed = self.words - 1, self.freed + 1

    def write(self):
        self.fresh += 1

    def end_of_cycle(self):
        self.words, self.fresh, self.freed = self.words + self.fresh, 0, 0


class _Runner:
    """One process: a pipeline of `latency` stages that stops as a whole when a result finds its FIFO full."""

    def __init__(self, process, fifos, events, start_every):
        self.p, self.fifos, self.left = process, fifos, events
        self.every, self.event, self.next = start_every, 0, 0
        self.pipe = deque([None] * process.latency)
        self.reads = [dict.fromkeys(slots.tolist(), s) for s, slots in process.reads.items()]
        self.writes = [dict.fromkeys(slots.tolist(), s) for s, slots in process.writes.items()]
        self.done = []  # the cycle of each event's last result

    def streams(self, table, t):
        return [self.fifos[by[t]] for by in table if t in by]

    def may_start(self, cycle):
        if self.event == self.left or (not self.p.reads and self.next == 0 and cycle < self.event * self.every):
            return False
        if self.next == 0 and self.p.drains and any(x is not None for x in self.pipe):
            return False
        return all(f.can_read() for f in self.streams(self.reads, self.next))

    def step(self, cycle):
        """One cycle; True if anything happened."""
        if self.pipe and self.pipe[0] is not None and not self._can_finish(self.pipe[0][1]):
            return False
        entering = None
        if self.may_start(cycle) and (self.pipe or self._can_finish(self.next)):
            for f in self.streams(self.reads, self.next):
                f.read()
            entering = (self.event, self.next)
            self.next += 1
            if self.next == self.p.iterations:
                self.event, self.next = self.event + 1, 0
        self.pipe.append(entering)
        leaving = self.pipe.popleft()
        if leaving is not None:
            for f in self.streams(self.writes, leaving[1]):
                f.write()
            if leaving[1] == self.p.iterations - 1:
                self.done.append(cycle)
        return entering is not None or leaving is not None or any(x is not None for x in self.pipe)

    def _can_finish(self, t):
        return all(f.can_write() for f in self.streams(self.writes, t))


def run(processes, depths, events=4, most=200_000):
    """The cycle of the last result of each event; None where the processes wait for each other for ever."""
    every = max(p.interval for p in processes)
    fifos = {name: _Fifo(depth) for name, depth in depths.items()}
    runners = [_Runner(p, fifos, events, every) for p in processes]
    sinks = [r for r in runners if not r.p.writes]
    idle = 0
    for cycle in range(most):
        moved = [r.step(cycle) for r in runners]
        for f in fifos.values():
            f.end_of_cycle()
        if all(len(r.done) == events for r in sinks):
            return [max(r.done[k] for r in sinks) for k in range(events)]
        idle = 0 if any(moved) else idle + 1
        if idle > every + 2:
            return None
    raise AssertionError("the model did not finish")
