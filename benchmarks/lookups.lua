-- Random tokens of those that `company.token` makes, and what came of them as one line of JSON.
-- Arguments: how many tokens there are, and the mean pause of a connection between two requests in
-- milliseconds; 0: none.

local head = "GET /api/v4/job/allowed_agents HTTP/1.1\r\nHost: benchmark\r\nJob-Token: bench-token-"

function init(args)
  math.randomseed(os.time())
  tokens, pause = tonumber(args[1]), tonumber(args[2])
  -- Without this wrk would ask for pauses of 0, at a cost.
  if pause > 0 then
    delay = function() return math.floor(-pause * math.log(1 - math.random()) + 0.5) end
  end
end

function request()
  return head .. math.random(tokens) .. "\r\n\r\n"
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
