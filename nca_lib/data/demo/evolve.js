/* Evolution strategies in JavaScript: what nca_lib/evolution.py says, under the same names.

   ES (this file) has the strategies as plain functions: ask, tell, look. Rollout (rollout.js) is
   the fast life and its loss, NCA (nca.js) the readable rule, records and links. Evolution
   (crew.js) is what a page uses; it shares the population among workers:

   const evolution = Evolution.create(settings, target, handlers);

     settings   whatever differs from Evolution.DEFAULTS, the preset `quick`, under the names of
                nca_lib/lab/config.py: size, padding, channels, hidden, step_size,
                alive_threshold, mask ("paired", "bernoulli"), num_steps, window, population,
                strategy ("whitened", "pgpe", "open_es"), std, std_rate, learning_rate,
                learning_rate_end, generations (the length of the schedule; evolution goes on),
                seed. Four more are true and may be false: ranks, pairs, shared_luck, whitening
                (of the strategy "whitened": both, inputs and outputs). `emoji` and `title` go
                into records.
     target     Float32Array, side * side * 4, premultiplied RGBA in 0 to 1, row by row;
                side = size + 2 * padding.
     handlers   {workers, weights, onGeneration(report), onState(state), onError(error)}, all
                optional. workers: how many, default Evolution.cores() (cores less one, at most
                8); 0 computes in this thread, in slices. weights: Float32Array to start from.

   It throws an Error whose message says in words which setting is wrong.
   Evolution.check(settings) does so alone, and returns the settings completed. Evolution.LIMITS
   has [low, high] of every number. Evolution.LIVE is a Set of names that may change while it
   runs; all others need a new start. Evolution.DEAD and Evolution.EXPLODED are settings that end
   so on purpose.

     evolution.run()             goes on until paused; pause() ends after this generation.
     evolution.step()            one generation; a promise of its report.
     evolution.change({...})     names of LIVE, from the next generation on.
     evolution.stop()            for good: ends the workers.
     evolution.state             "idle", "running", "paused", "dead", "exploded"
     evolution.settings, .target, .empty (loss of the empty grid), .workers (how many there are),
     .generation, .rollouts, .seconds (while running), .loss (of the mean, when last measured;
     NaN before), .mean (Float32Array, the weights), .history: an array of
     {generation, rollouts, seconds, loss, sigma}, a row for every measurement.

   After dead or exploded it has stopped; run() makes it go on for those who insist.

   report: {generation, rollouts, seconds, loss, measured, fitness, best, median, sigma, sigmas,
   rate, mean, pictures}. generation counts those done. fitness: Float32Array of the members,
   Infinity where not finite; best, median of it. loss: of the mean, over 8 fresh lives, from the
   first ten generations and every tenth after; `measured` says whether it is new. sigma: the mean
   noise of a weight; sigmas: [smallest, largest]. rate: rollouts a second, over the last seconds.
   pictures: null or, at most every Evolution.PICTURES milliseconds, Uint8ClampedArray of
   (population, side, side, 4) straight RGBA, the last step of each member's life, best to worst:
   new ImageData(pictures.subarray(k * n, (k + 1) * n), side) with n = 4 * side * side.

     evolution.model()           for NCA.step and the player: see NCA.decode.
     evolution.toRecord(told)    a plain object, JSON of which is NAME.nca.json; told: {name,
                                 title, emoji}. NCA.encode and NCA.decode are the way there and
                                 back; NCA.readRecord(text) takes a file's text.
     NCA.toLink(model)           "p=...&channels=8&hidden=32&...", to stand behind "#".
     NCA.fromLink(hash)          a model; null where there is no p. Errors say in words what is
                                 wrong. A model has emoji, title, size, padding, num_steps,
                                 channels, hidden, and weights (Float32Array, all in a row). */
