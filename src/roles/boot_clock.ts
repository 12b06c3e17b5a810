/**
 * The clock of key leases: it counts the time that a machine was suspended (CLOCK_BOOTTIME), so
 * that a node that wakes up does not take an old lease for a fresh one.
 */
import type { Libc } from "../../ffi/libc.ts";
import { type Clock, SYSTEM_CLOCK } from "../common/clock.ts";

export function bootClock(libc: Libc): Clock {
  return { ...SYSTEM_CLOCK, monotonicMs: () => libc.bootTimeMs() };
}
