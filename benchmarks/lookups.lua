-- Random tokens of those that `company.token` makes, and what came of them as one line of JSON.
-- Arguments: how many tokens there are; the mean pause of a connection between two requests in
-- milliseconds, 0: none; and, unless it is those, a file with the tokens, one a line.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "summary.lua")

local head = "GET /api/v4/job/allowed_agents HTTP/1.1\r\nHost: benchmark\r\nJob-Token: "
local listed = {}

function init(args)
  math.randomseed(os.time())
  tokens, pause = tonumber(args[1]), tonumber(args[2])
  if args[3] then
    for line in io.lines(args[3]) do
      listed[#listed + 1] = line
    end
  end
  -- Without this wrk would ask for pauses of 0, at a cost.
  if pause > 0 then
    delay = function() return math.floor(-pause * math.log(1 - math.random()) + 0.5) end
  end
end

function request()
  local number = math.random(tokens)
  return head .. (listed[number] or "bench-token-" .. number) .. "\r\n\r\n"
end
