--- Programs that run beside the editor, one at a time: what they print, how far they are, and how they are ended.
local M = {}

---@type string? what is going on, for the status line
M.doing = nil

local running ---@type vim.SystemObj?
local cancelled = false

---@param doing? string
function M.show(doing)
  M.doing = doing
  require('dgemma.status').changed()
end

---@return boolean
function M.is_busy()
  return running ~= nil
end

--- Run a program in the home folder, whose lines go to `see`, and then its exit code to `ended`; nil if it was cancelled.
---@param command string[]
---@param see fun(line: string)
---@param ended fun(code: integer?)
function M.run(command, see, ended)
  cancelled = false
  local function lines()
    local rest = ''
    return vim.schedule_wrap(function(_, data)
      local parts = vim.split(rest .. (data or ''), '\r?\n')
      rest = table.remove(parts)
      if not data and rest ~= '' then
        table.insert(parts, rest)
      end
      vim.tbl_map(see, parts)
    end)
  end
  local finish = vim.schedule_wrap(function(code)
    running = nil
    ended(not cancelled and code or nil)
  end)
  local started, process = pcall(vim.system, command, { cwd = vim.uv.os_homedir(), stdout = lines(), stderr = lines() },
    function(result)
      finish(result.code)
    end)
  if started then
    running = process
  else
    see(tostring(process))
    finish(-1)
  end
end

--- Run several, up to the first that fails.
---@param commands string[][]
---@param see fun(line: string)
---@param ended fun(code: integer?)
function M.run_all(commands, see, ended)
  local function go_on(index)
    if not commands[index] then
      return ended(0)
    end
    M.run(commands[index], see, function(code)
      if code == 0 then
        return go_on(index + 1)
      end
      ended(code)
    end)
  end
  go_on(1)
end

--- End what is running; whether there was anything.
---@return boolean
function M.cancel()
  if not running then
    return false
  end
  cancelled = true
  running:kill('sigterm')
  return true
end

--- A number of bytes for people, in decimal units.
---@param bytes number
---@return string
function M.in_words(bytes)
  for _, unit in ipairs({ 'bytes', 'kB', 'MB' }) do
    if bytes < 1000 then
      return ('%.0f %s'):format(bytes, unit)
    end
    bytes = bytes / 1000
  end
  return ('%.1f GB'):format(bytes)
end

return M
