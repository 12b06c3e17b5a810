/**
 * The one schema of messages between isolates: method numbers and what their payloads hold.
 *
 * Payloads are binary where they are hot, JSON where they are rare.
 */
export const Method = {
  // main -> worker
  start: 1,
  metrics: 2,
  drain: 3,
  // storage: shards
  execute: 16,
  query: 17,
  openShard: 18,
  shardStatus: 19,
  foldAll: 20,
  // storage: devices
  fragmentPut: 32,
  fragmentGet: 33,
  fragmentHead: 34,
  fragmentRemove: 35,
  fragmentRewrap: 36,
  fragmentList: 37,
  deviceUsage: 38,
  listDevices: 39,
  replaceDevice: 40,
  // main: keys; gateways: news of the directory
  keyLease: 64,
  directory: 65,
  finding: 66,
} as const;
export type Method = typeof Method[keyof typeof Method];
