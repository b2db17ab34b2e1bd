-- Requests with events, in turn, and what came of them as one line of JSON.
-- Arguments: the media type, and a file of requests. Each line is a token, a space and a body.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "summary.lua")

local posts, last = {}, 0

function init(args)
  for line in io.lines(args[2]) do
    local token, body = line:match("^(%S+) (.*)$")
    posts[#posts + 1] = "POST /events HTTP/1.1\r\nHost: benchmark\r\nAuthorization: Bearer "
      .. token .. "\r\nContent-Type: " .. args[1] .. "\r\nContent-Length: " .. #body
      .. "\r\n\r\n" .. body
  end
end

function request()
  last = last % #posts + 1
  return posts[last]
end
