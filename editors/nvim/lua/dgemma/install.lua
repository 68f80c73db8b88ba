--- :Dgemma install: an environment of the plugin's own with the server, and the checkpoint for this machine.
local checkpoints = require('dgemma.checkpoints')
local config = require('dgemma.config')
local programs = require('dgemma.programs')
local server = require('dgemma.server')

local M = {}

local LEVELS = vim.log.levels
local OLDEST = { 3, 11 }
local CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
--- Download and disk in GB, measured with torch 2.13.
local SIZES = { cpu = { 0.3, 1.2 }, cuda = { 3, 7 } }
--- Prints the version, and fails where no environments can be made.
local ASK_PYTHON = 'import sys; print(*sys.version_info[:2]); import ensurepip, venv'
local ASKING_MS = 20000

--- The clone of the repository that the plugin is in; nil if it is in none.
---@return string?
function M.clone()
  local here = vim.uv.fs_realpath(debug.getinfo(1, 'S').source:sub(2))
  local root = vim.fs.dirname(here):gsub('/editors/nvim/lua/dgemma$', '')
  return vim.uv.fs_stat(root .. '/constraints.txt') and vim.uv.fs_stat(root .. '/pyproject.toml') and root or nil
end

--- The first Python that can make the environment, or why there is none.
---@return string? command
---@return string? problem
local function find_python()
  local problem = 'Python 3.11 or later was not found; install it, then run :Dgemma install again'
  for _, name in ipairs({ 'python3.14', 'python3.13', 'python3.12', 'python3.11', 'python3', 'python' }) do
    if vim.fn.executable(name) == 1 then
      local asked = vim.system({ name, '-I', '-c', ASK_PYTHON }, { text = true }):wait(ASKING_MS)
      local major, minor = (asked.stdout or ''):match('^(%d+) (%d+)')
      local version = { tonumber(major), tonumber(minor) }
      if major and vim.version.lt(version, OLDEST) then
        problem = ('%s is Python %s.%s, and 3.11 or later is needed'):format(name, major, minor)
      elseif major and asked.code ~= 0 then
        problem = ('%s cannot make environments; install python%s.%s-venv'):format(name, major, minor)
      elseif major then
        return name
      end
    end
  end
  return nil, problem
end

---@return boolean
local function has_nvidia_driver()
  if vim.fn.executable('nvidia-smi') == 0 then
    return false
  end
  local asked = vim.system({ 'nvidia-smi', '-L' }, { text = true }):wait(ASKING_MS)
  return asked.code == 0 and asked.stdout:find('GPU') ~= nil
end

--- The programs that make the environment, in order. On Linux, the package index's own torch is the one for CUDA: the
--- other is taken from its makers' index, which is asked for nothing else.
---@param python string
---@param source string
---@param build 'cpu'|'cuda'
---@return string[][]
local function steps(python, source, build)
  local environment = config.own_environment()
  local own = config.own_program('python')
  local version
  for line in io.lines(source .. '/constraints.txt') do
    version = version or line:match('^torch==(%S+)$')
  end
  local function pip(...)
    local install = { own, '-I', '-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', '--progress-bar', 'off' }
    return vim.list_extend(install, { ... })
  end
  local torch = 'torch==' .. version
  local commands = { { python, '-I', '-m', 'venv', '--clear', environment } }
  if build == 'cpu' and vim.uv.os_uname().sysname == 'Linux' then
    torch = torch .. '+cpu'
    table.insert(commands, pip('--retries', '1', '--no-deps', '--extra-index-url', CPU_INDEX, torch))
  end
  table.insert(commands, pip(torch, source))
  return commands
end

--- A line of pip's in a few words.
---@param line string
---@return string?
local function in_words(line)
  local verb, name = line:match('^%s*(%a+) ([%w._-]+)')
  if verb == 'Collecting' or verb == 'Downloading' then
    return ('%s %s'):format(verb:lower(), name)
  end
  return line:find('^Installing collected packages') and 'installing' or nil
end

--- Whether nobody else is installing; if so, others hear of this process.
---@param lock string
---@return boolean
local function take(lock)
  local holder = vim.uv.fs_stat(lock) and tonumber(vim.fn.readfile(lock)[1])
  if holder and holder ~= vim.fn.getpid() and vim.uv.kill(holder, 0) == 0 then
    return false
  end
  vim.fn.writefile({ tostring(vim.fn.getpid()) }, lock)
  return true
end

---@param python string
---@param source string
---@param build 'cpu'|'cuda'
---@param name? string the checkpoint to get, too
local function make(python, source, build, name)
  local environment = config.own_environment()
  local lock, last = environment .. '.installing', ''
  vim.fn.mkdir(vim.fs.dirname(environment), 'p')
  if not take(lock) then
    return server.say('another Neovim is installing the server; wait for it', LEVELS.ERROR)
  end
  server.say('the server is being installed; :Dgemma cancel ends that', LEVELS.INFO)
  programs.show('installing the server')
  programs.run_all(steps(python, source, build), function(line)
    local text = in_words(line)
    last = (line:find('ERROR') or last == '') and line or last
    if text then
      programs.show('installing the server: ' .. text)
    end
  end, function(code)
    programs.show()
    vim.fn.delete(lock)
    if code ~= 0 then
      vim.fn.delete(environment, 'rf')
      local why = code and 'installing failed: ' .. last or 'cancelled; nothing is installed'
      return server.say(why, code and LEVELS.ERROR or LEVELS.INFO)
    end
    config.find_server()
    server.reconfigure()
    server.restart()
    server.say('the server is installed', LEVELS.INFO)
    if name then
      checkpoints.pull(name, server.restart)
    end
  end)
end

--- Ask, then install.
local function install_server()
  local source = M.clone()
  if config.cmd_is_given then
    return server.say(("'%s' was not found; correct the option cmd, or leave it out"):format(config.options.cmd[1]), LEVELS.ERROR)
  elseif not source then
    return server.say('the plugin is not in a clone of the repository; install dgemma-lsp from one: pipx install .', LEVELS.ERROR)
  end
  local python, problem = find_python()
  if not python then
    return server.say(problem, LEVELS.ERROR)
  end
  local build = has_nvidia_driver() and 'cuda' or 'cpu'
  local download, disk = unpack(SIZES[build])
  local default = require('dgemma.default_checkpoint')
  local choices = { ('Install with %s (%s)'):format(default.name, default.offer), 'Install the server only', 'Leave it' }
  local prompt = ('Install the server? %s GB to download, %s GB in %s.'):format(download, disk, config.own_environment())
  vim.ui.select(choices, { prompt = prompt }, function(_, index)
    if index == 1 or index == 2 then
      make(python, source, build, index == 1 and default.name or nil)
    end
  end)
end

--- What is missing on this machine: the server, or the checkpoint that it should use.
function M.run()
  if programs.is_busy() then
    return server.say(('something is on its way already: %s'):format(programs.doing or 'a command'), LEVELS.WARN)
  elseif vim.fn.executable(config.options.cmd[1]) == 0 then
    return install_server()
  end
  checkpoints.survey(function(survey)
    if not survey then
      return
    end
    local wanted = survey.recommended.name
    for _, row in ipairs(survey.checkpoints) do
      if row.name == wanted and not row.path and wanted ~= 'embedded' then
        return checkpoints.offer(row, server.restart)
      end
    end
    server.say(('nothing is missing: %s fills on this machine'):format(survey.used.name), LEVELS.INFO)
  end)
end

return M
